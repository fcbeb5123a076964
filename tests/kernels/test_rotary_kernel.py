"""The rotation kernel against float64, and every K and V in its slot."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mii_kernels.batch import RaggedBatch

from .conftest import Kernels, Paged

SEQUENCES = [(1, 65), (1, 1), (3, 130), (5, 5)]
SHAPES = [
    (4, 2, 128, 128),
    (16, 8, 128, 50),
    (3, 1, 80, 32),
    (2, 2, 64, 16),
    (2, 1, 96, 96),
    (1, 1, 10, 6),
    (5, 1, 64, None),
]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def moved(it: Paged, to: torch.device, dtype: torch.dtype) -> tuple[RaggedBatch, Tensor, Tensor]:
    batch = replace(
        it.batch, positions=it.batch.positions.to(to), slot_mapping=it.batch.slot_mapping.to(to), derived={}
    )
    return batch, it.k_cache.to(to, dtype), it.v_cache.to(to, dtype)


def turned(heads: Tensor, positions: Tensor, table: Tensor | None, interleaved: bool) -> Tensor:
    """heads [tokens, heads, head_dim], table [positions, rotary_dim], in float64."""
    out = heads.double().cpu().clone()
    if table is None:
        return out
    dim = table.shape[1]
    cos, sin = table.double().cpu()[positions.cpu().long()].unsqueeze(1).chunk(2, -1)
    rotated = out[..., :dim].clone()
    pairs = (
        rotated.unflatten(-1, (-1, 2)) if interleaved else rotated.unflatten(-1, (2, -1)).transpose(-1, -2)
    )
    x, y = pairs.unbind(-1)
    both = torch.stack((x * cos - y * sin, x * sin + y * cos), -1)
    out[..., :dim] = (both if interleaved else both.transpose(-1, -2)).flatten(-2)
    return out


def table_of(dim: int | None, device: torch.device) -> Tensor | None:
    if dim is None:
        return None
    angles = torch.rand(200, dim // 2) * 2 * math.pi
    return torch.cat((angles.cos(), angles.sin()), -1).to(device)


def close(out: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    return bool((out.double().cpu() - expected).norm() <= TOLERANCE[dtype] * expected.norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "rotary_dim"), SHAPES)
def test_rotates_and_stores(
    kernels: Kernels,
    paged: Callable[..., Paged],
    dtype: torch.dtype,
    interleaved: bool,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int | None,
) -> None:
    it = paged(SEQUENCES, decodes=2, kv_heads=kv_heads, head_dim=head_dim)
    batch, k_cache, v_cache = moved(it, kernels.device, dtype)
    before = k_cache.clone(), v_cache.clone()
    qkv = torch.randn(10, heads + 2 * kv_heads, head_dim).to(kernels.device, dtype)
    given, table = qkv.clone(), table_of(rotary_dim, kernels.device)

    query = kernels.run.rope_and_store_kv(qkv, table, batch, k_cache, v_cache, heads, interleaved)

    assert query.data_ptr() == qkv.data_ptr()
    assert query.shape == (10, heads, head_dim)
    assert torch.equal(qkv[:, heads + kv_heads :], given[:, heads + kv_heads :])
    expected = turned(given[:, : heads + kv_heads], batch.positions, table, interleaved)
    assert close(query, expected[:, :heads], dtype)
    slots = batch.slot_mapping.long()
    stored_k, stored_v = (c.transpose(1, 2).reshape(-1, kv_heads, head_dim) for c in (k_cache, v_cache))
    assert close(stored_k[slots], expected[:, heads:], dtype)
    assert torch.equal(stored_v[slots], given[:, heads + kv_heads :])
    untouched = torch.ones(len(stored_k), dtype=torch.bool, device=kernels.device)
    untouched[slots] = False
    for now, then in zip((stored_k, stored_v), before, strict=True):
        assert torch.equal(now[untouched], then.transpose(1, 2).reshape(-1, kv_heads, head_dim)[untouched])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_are_stored_finite(kernels: Kernels, paged: Callable[..., Paged], dtype: torch.dtype) -> None:
    batch, k_cache, v_cache = moved(
        paged([(4, 4)], decodes=0, kv_heads=1, head_dim=16), kernels.device, dtype
    )
    qkv = torch.randn(4, 3, 16).to(kernels.device, dtype)
    qkv[0, 2, 0], qkv[1, 2, 3], qkv[2, 2, 15] = math.nan, math.inf, -math.inf
    kernels.run.rope_and_store_kv(qkv, None, batch, k_cache, v_cache, 1, False)
    stored = v_cache.transpose(1, 2).reshape(-1, 1, 16)[batch.slot_mapping.long()]
    assert torch.equal(stored, qkv[:, 2:].nan_to_num())


def test_tokens_apart(kernels: Kernels, paged: Callable[..., Paged]) -> None:
    batch, k_cache, v_cache = moved(
        paged([(3, 3)], decodes=0, kv_heads=1, head_dim=32), kernels.device, torch.float32
    )
    wide = torch.randn(3, 200, device=kernels.device)
    qkv = wide[:, 4 : 4 + 5 * 32].unflatten(1, (5, 32))
    given, table = qkv.clone(), table_of(32, kernels.device)
    query = kernels.run.rope_and_store_kv(qkv, table, batch, k_cache, v_cache, 3, False)
    assert close(query, turned(given[:, :3], batch.positions, table, False), torch.float32)


def test_many_tokens(kernels: Kernels, paged: Callable[..., Paged]) -> None:
    """More of them than get several thread blocks each."""
    batch, k_cache, v_cache = moved(
        paged([(300, 310)], decodes=0, kv_heads=2, head_dim=32), kernels.device, torch.bfloat16
    )
    batch = replace(batch, positions=batch.positions % 200)
    qkv = torch.randn(300, 7, 32).to(kernels.device, torch.bfloat16)
    given, table = qkv.clone(), table_of(16, kernels.device)
    query = kernels.run.rope_and_store_kv(qkv, table, batch, k_cache, v_cache, 3, False)
    expected = turned(given[:, :5], batch.positions, table, False)
    slots = batch.slot_mapping.long()
    stored_k, stored_v = (cache.transpose(1, 2).reshape(-1, 2, 32)[slots] for cache in (k_cache, v_cache))
    assert close(query, expected[:, :3], torch.bfloat16)
    assert close(stored_k, expected[:, 3:], torch.bfloat16)
    assert torch.equal(stored_v, given[:, 5:])


def test_no_tokens(kernels: Kernels, paged: Callable[..., Paged]) -> None:
    batch, k_cache, v_cache = moved(
        paged([(1, 1)], decodes=1, kv_heads=1, head_dim=32), kernels.device, torch.float32
    )
    before = k_cache.clone()
    qkv = torch.randn(0, 3, 32, device=kernels.device)
    assert kernels.run.rope_and_store_kv(qkv, None, batch, k_cache, v_cache, 1, False).shape == (0, 1, 32)
    assert torch.equal(k_cache, before)
