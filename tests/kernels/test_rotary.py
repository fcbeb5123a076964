"""The rotation against complex numbers, and every K and V in its slot."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mii.layers.rotary import Rotary, cos_sin_table
from mii_kernels import ops

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 32


def turned(head: Tensor, position: int, dim: int, interleaved: bool) -> Tensor:
    """One head [head_dim] in float64: pairs are complex numbers, turned by their angle."""
    out = head.double().clone()
    angles = position / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
    even = slice(0, dim, 2) if interleaved else slice(0, dim // 2)
    odd = slice(1, dim, 2) if interleaved else slice(dim // 2, dim)
    pairs = torch.complex(out[even].clone(), out[odd].clone()) * torch.polar(torch.ones_like(angles), angles)
    out[even], out[odd] = pairs.real, pairs.imag
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [HEAD_DIM, HEAD_DIM // 2])
def test_rotates_and_stores(paged: Callable, dim: int, interleaved: bool) -> None:
    it = paged([(1, 65), (1, 1), (3, 130)], decodes=2, kv_heads=KV_HEADS, head_dim=HEAD_DIM)
    before = it.k_cache.clone(), it.v_cache.clone()
    qkv = torch.randn(5, HEADS + 2 * KV_HEADS, HEAD_DIM)
    given = qkv.clone()
    table = cos_sin_table(Rotary(theta=10000.0, dim=dim), 256, 256)
    query = ops.rope_and_store_kv(
        qkv, table, it.batch, it.k_cache, it.v_cache, num_heads=HEADS, interleaved=interleaved
    )
    slots = it.batch.slot_mapping.tolist()
    for token, position in enumerate(it.batch.positions.tolist()):
        place = (slots[token] // 64, slice(None), slots[token] % 64)
        for head in range(HEADS):
            expected = turned(given[token, head], position, dim, interleaved)
            torch.testing.assert_close(query[token, head].double(), expected, atol=1e-4, rtol=1e-4)
        for head in range(KV_HEADS):
            expected = turned(given[token, HEADS + head], position, dim, interleaved)
            torch.testing.assert_close(it.k_cache[place][head].double(), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(it.v_cache[place], given[token, HEADS + KV_HEADS :])
    untouched = torch.ones(it.k_cache.shape[0] * 64, dtype=torch.bool)
    untouched[slots] = False
    for cache, old in zip((it.k_cache, it.v_cache), before, strict=True):
        now, then = (c.transpose(1, 2).reshape(-1, KV_HEADS, HEAD_DIM)[untouched] for c in (cache, old))
        assert torch.equal(now, then)


def test_without_positions_only_stores(paged: Callable) -> None:
    it = paged([(2, 2)], decodes=0, kv_heads=KV_HEADS, head_dim=HEAD_DIM)
    qkv = torch.randn(2, HEADS + 2 * KV_HEADS, HEAD_DIM)
    query = ops.rope_and_store_kv(qkv, None, it.batch, it.k_cache, it.v_cache, num_heads=HEADS)
    assert torch.equal(query, qkv[:, :HEADS])
    assert torch.equal(it.context(it.k_cache, 0), qkv[:, HEADS : HEADS + KV_HEADS])


SCALINGS = {
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 256},
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": 256,
        "short_factor": [1.0 + 0.1 * i for i in range(16)],
        "long_factor": [2.0 + 0.3 * i for i in range(16)],
    },
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_frequencies_equal_transformers(kind: str) -> None:
    scaling = {"rope_type": kind, **SCALINGS[kind]}
    config = transformers.LlamaConfig(
        hidden_size=128,
        num_attention_heads=4,
        max_position_embeddings=1024,
        rope_scaling={**scaling, "rope_theta": 10000.0},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu", seq_len=1024)
    original = int(scaling.get("original_max_position_embeddings", 1024))
    table = cos_sin_table(Rotary(theta=10000.0, dim=32, scaling=scaling), 1024, original)
    angles = torch.outer(torch.arange(1024, dtype=torch.float32), frequencies)
    torch.testing.assert_close(
        table, torch.cat((angles.cos(), angles.sin()), -1) * factor, atol=1e-4, rtol=1e-4
    )
