"""Attention of a ragged mixed batch over the paged KV cache.

Decodes run together, padded to the longest context; prompt chunks run one after another, each over its own
context. GQA groups are rows of one product, so K and V are never repeated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels.batch import RaggedBatch


def paged_attention(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, batch: RaggedBatch, scale: float, window: int | None
) -> Tensor:
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if batch.num_decodes:
        _decode(query[: batch.num_decodes], k_cache, v_cache, batch, scale, window, out[: batch.num_decodes])
    start = batch.num_decodes
    for index in range(batch.num_decodes, len(batch.query_lens)):
        end = start + batch.query_lens[index]
        _chunk(query[start:end], k_cache, v_cache, batch, index, scale, window, out[start:end])
        start = end
    return out


def _decode(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
    out: Tensor,
) -> None:
    """query, out [decodes, heads, head_dim]."""
    num, heads, head_dim = query.shape
    kv_heads, block_size = k_cache.shape[1:3]
    index, unseen = _decode_index(batch, kv_heads, block_size, window)
    key = _gather(k_cache, index, num * kv_heads)  # [decodes * kv_heads, context, head_dim]
    value = _gather(v_cache, index, num * kv_heads)
    grouped = query.reshape(num * kv_heads, heads // kv_heads, head_dim)
    scores = torch.bmm(grouped, key.transpose(1, 2)).mul_(scale)
    # Filled, not added to: what lies past a context may be another request's overflow, and inf - inf is NaN.
    scores.masked_fill_(unseen, float("-inf"))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    out.copy_(torch.bmm(weights, value).view(num, heads, head_dim))


def _decode_index(
    batch: RaggedBatch, kv_heads: int, block_size: int, window: int | None
) -> tuple[Tensor, Tensor]:
    """Rows of the flattened cache to gather, and True where a decode may not look
    [decodes * kv_heads, 1, context]."""
    name = f"decode{window}"
    if name not in batch.derived:
        num = batch.num_decodes
        width = -(-max(batch.context_lens_host[:num]) // block_size)
        tables = batch.block_tables[:num, :width].long()
        lengths = batch.context_lens[:num, None]
        blocks = torch.arange(width, device=tables.device)
        tables = torch.where(blocks * block_size < lengths, tables, 0)
        heads = torch.arange(kv_heads, device=tables.device)
        index = (tables[:, None, :] * kv_heads + heads[:, None]).reshape(-1)
        place = torch.arange(width * block_size, device=tables.device)
        unseen = place >= lengths
        if window is not None:
            unseen |= place < lengths - window
        batch.derived[name] = (index, unseen.repeat_interleave(kv_heads, dim=0).unsqueeze(1))
    derived: tuple[Tensor, Tensor] = batch.derived[name]
    return derived


def _gather(cache: Tensor, index: Tensor, rows: int) -> Tensor:
    """Tiles of one KV head are contiguous: [rows * blocks] tile numbers -> [rows, tokens, head_dim]."""
    blocks, kv_heads, block_size, head_dim = cache.shape
    tiles = cache.view(blocks * kv_heads, block_size * head_dim).index_select(0, index)
    return tiles.view(rows, -1, head_dim)


def _chunk(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: RaggedBatch,
    index: int,
    scale: float,
    window: int | None,
    out: Tensor,
) -> None:
    """query, out [length, heads, head_dim]: the last `length` tokens of one sequence's context."""
    length, heads, _ = query.shape
    kv_heads, block_size = k_cache.shape[1:3]
    context = batch.context_lens_host[index]
    table = batch.block_tables[index, : -(-context // block_size)].long()
    tiles = (table[None, :] * kv_heads + torch.arange(kv_heads, device=table.device)[:, None]).reshape(-1)
    key = _gather(k_cache, tiles, kv_heads)[None, :, :context]
    value = _gather(v_cache, tiles, kv_heads)[None, :, :context]
    plain = context == length and (window is None or window >= context)
    attended = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key,
        value,
        attn_mask=None if plain else _chunk_mask(length, context, window, query.device),
        is_causal=plain,
        scale=scale,
        enable_gqa=heads != kv_heads,
    )
    out.copy_(attended[0].transpose(0, 1))


def _chunk_mask(length: int, context: int, window: int | None, device: torch.device) -> Tensor:
    """True where a query may look: [length, context], aligned at the lower right corner."""
    ones = torch.ones(length, context, dtype=torch.bool, device=device)
    mask = ones.tril(context - length)
    return mask if window is None else mask.triu(context - length - window + 1)
