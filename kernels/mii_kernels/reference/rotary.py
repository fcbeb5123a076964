"""Rotary position embedding (Su et al., 2021) and the write into the KV blocks."""

import torch
from torch import Tensor

from mii_kernels.batch import RaggedBatch


def rope_and_store_kv(
    qkv: Tensor,
    cos_sin: Tensor | None,
    batch: RaggedBatch,
    k_cache: Tensor,
    v_cache: Tensor,
    num_heads: int,
    interleaved: bool,
) -> Tensor:
    num_kv_heads = k_cache.shape[1]
    if cos_sin is not None:
        _rotate(qkv[:, : num_heads + num_kv_heads], cos_sin, batch, interleaved)
    query, key = qkv[:, :num_heads], qkv[:, num_heads : num_heads + num_kv_heads]
    value = qkv[:, num_heads + num_kv_heads :]
    block, offset = _slots(batch, k_cache.shape[2])
    k_cache.transpose(1, 2)[block, offset] = key
    # Finite, whatever a model's overflow makes of it: unseen values count 0 times, and 0 * inf is NaN.
    v_cache.transpose(1, 2)[block, offset] = value.nan_to_num()
    return query


def _rotate(heads: Tensor, cos_sin: Tensor, batch: RaggedBatch, interleaved: bool) -> None:
    """Rotates the leading dimensions of every head in place. heads [tokens, heads, head_dim]."""
    cos, sin = _angles(batch, cos_sin, heads.dtype)
    half = cos.shape[-1]
    rotated = heads[..., : 2 * half]
    first, second = (rotated[..., ::2], rotated[..., 1::2]) if interleaved else rotated.split(half, dim=-1)
    turned = (first * cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(first, sin)
    first.copy_(turned)


def _angles(batch: RaggedBatch, cos_sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [tokens, 1, rotary_dim / 2], gathered once a step."""
    key = f"rope{cos_sin.data_ptr()}"
    if key not in batch.derived:
        angles = cos_sin.index_select(0, batch.positions).to(dtype).unsqueeze(1)
        cos, sin = angles.chunk(2, dim=-1)
        batch.derived[key] = (cos.contiguous(), sin.contiguous())
    derived: tuple[Tensor, Tensor] = batch.derived[key]
    return derived


def _slots(batch: RaggedBatch, block_size: int) -> tuple[Tensor, Tensor]:
    if "slots" not in batch.derived:
        slot = batch.slot_mapping.long()
        batch.derived["slots"] = (slot // block_size, slot % block_size)
    slots: tuple[Tensor, Tensor] = batch.derived["slots"]
    return slots
