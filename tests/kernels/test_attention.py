"""Paged attention against a plain float64 loop over queries."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mii_kernels import ops

MIXED = [(1, 1), (1, 64), (1, 65), (1, 200), (3, 3), (64, 64), (65, 130), (7, 200), (1, 70)]


def naive(paged, query: Tensor, scale: float, window: int | None) -> Tensor:  # type: ignore[no-untyped-def]
    """[tokens, heads, head_dim] in float64, one query and one head at a time."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // paged.k_cache.shape[1]
    token = 0
    for index, length in enumerate(paged.batch.query_lens):
        keys, values = (paged.context(cache, index).double() for cache in (paged.k_cache, paged.v_cache))
        for place in range(len(keys) - length, len(keys)):
            first = 0 if window is None else max(0, place - window + 1)
            for head in range(query.shape[1]):
                seen, said = keys[first : place + 1, head // group], values[first : place + 1, head // group]
                weights = torch.softmax(seen @ query[token, head].double() * scale, dim=0)
                out[token, head] = weights @ said
            token += 1
    return out


def error(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (4, 4, 80), (8, 1, 96), (4, 2, 128)])
@pytest.mark.parametrize("window", [None, 1, 48, 100])
def test_mixed_batches(paged: Callable, heads: int, kv_heads: int, head_dim: int, window: int | None) -> None:
    it = paged(MIXED, decodes=4, kv_heads=kv_heads, head_dim=head_dim)
    query = torch.randn(it.batch.num_tokens, heads, head_dim)
    scale = head_dim**-0.5
    out = ops.paged_attention(query, it.k_cache, it.v_cache, it.batch, scale=scale, window=window)
    assert error(out, naive(it, query, scale, window)) < 1e-5


@pytest.mark.parametrize("sequences", [[(1, 300)] * 5, [(50, 50)], [(1, 1)]])
def test_batches_of_one_kind(paged: Callable, sequences: list[tuple[int, int]]) -> None:
    decodes = len(sequences) if sequences[0][0] == 1 else 0
    it = paged(sequences, decodes=decodes, kv_heads=2, head_dim=32)
    query = torch.randn(it.batch.num_tokens, 4, 32)
    out = ops.paged_attention(query, it.k_cache, it.v_cache, it.batch, scale=0.2)
    assert error(out, naive(it, query, 0.2, None)) < 1e-5


def test_padding_of_the_tables_is_never_read(paged: Callable) -> None:
    it = paged([(1, 10), (1, 300)], decodes=2, kv_heads=2, head_dim=32)
    query = torch.randn(2, 4, 32)
    expected = ops.paged_attention(query, it.k_cache, it.v_cache, it.batch, scale=0.2)
    it.batch.derived.clear()
    it.batch.block_tables[0, 1:] = 10**6
    assert torch.equal(ops.paged_attention(query, it.k_cache, it.v_cache, it.batch, scale=0.2), expected)


def test_bfloat16_stays_close(paged: Callable) -> None:
    it = paged(MIXED, decodes=4, kv_heads=2, head_dim=64)
    it.k_cache, it.v_cache = it.k_cache.bfloat16(), it.v_cache.bfloat16()
    query = torch.randn(it.batch.num_tokens, 4, 64).bfloat16()
    out = ops.paged_attention(query, it.k_cache, it.v_cache, it.batch, scale=0.125)
    assert out.dtype == torch.bfloat16
    assert error(out, naive(it, query, 0.125, None)) < 1e-2


def test_shapes_that_do_not_fit_are_named(paged: Callable) -> None:
    it = paged([(1, 10)], decodes=1, kv_heads=2, head_dim=32)
    with pytest.raises(ValueError, match=r"paged_attention.*query \[1, 3, 32\]"):
        ops.paged_attention(torch.randn(1, 3, 32), it.k_cache, it.v_cache, it.batch, scale=1.0)
