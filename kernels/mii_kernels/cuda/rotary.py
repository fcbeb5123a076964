"""Rotary position embedding and the write into the KV blocks."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.batch import RaggedBatch
from mii_kernels.cuda.arguments import launch, served


def rope_and_store_kv(
    library: Library,
    qkv: Tensor,
    cos_sin: Tensor | None,
    batch: RaggedBatch,
    k_cache: Tensor,
    v_cache: Tensor,
    num_heads: int,
    interleaved: bool,
) -> Tensor:
    """Rotates Q in place; K goes into the cache without being written back."""
    kv_heads, block_size, head_dim = k_cache.shape[1:]
    if not (
        served(qkv, k_cache, v_cache)
        and qkv.stride()[1:] == (head_dim, 1)
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
        and (cos_sin is None or (cos_sin.is_contiguous() and cos_sin.dtype == torch.float32))
    ):
        return reference.rope_and_store_kv(qkv, cos_sin, batch, k_cache, v_cache, num_heads, interleaved)
    rotary_dim = 0 if cos_sin is None else cos_sin.shape[1]
    launch(
        library,
        "mii_rope_and_store_kv",
        *(qkv, k_cache, v_cache, cos_sin, batch.positions, batch.slot_mapping),
        *(qkv.shape[0], qkv.stride(0), num_heads, kv_heads, head_dim, rotary_dim, block_size),
        *(int(interleaved), qkv.dtype),
        on=qkv,
    )
    return qkv[:, :num_heads]
