"""Paged attention: one launch for the decodes of a batch, one for its prompt chunks; side by side where both
take long, as the ones wait for memory and the others for tensor cores."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.batch import RaggedBatch
from mii_kernels.cuda.arguments import capability, launch, multiprocessors
from mii_kernels.cuda.attention_plan import (
    BLOCK_SIZE,
    GROUP_ROWS,
    WGMMA,
    decode_splits,
    decode_us,
    prefill_launcher,
    prefill_tiles,
    prefill_us,
    prompt_multiprocessors,
)

HEAD_DIMS = (64, 80, 96, 128, 256)
MAX_DECODES = 65535  # CUDA's limit to the third dimension of a grid


def paged_attention(
    library: Library,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
) -> Tensor:
    if not _served(query, k_cache, v_cache, batch, scale):
        return reference.paged_attention(query, k_cache, v_cache, batch, scale, window)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    inputs = (library, out, query, k_cache, v_cache, batch, scale, window)
    if not batch.num_decodes:
        _prefill(*inputs)
        return out
    # Before either is launched: an allocation that fills what it returns would come between them.
    workspace = _workspace(_splits(query, k_cache, batch, window), query, batch.num_decodes)
    blocks = _prompt_blocks(query, k_cache, batch, window)
    if blocks:
        _prefill(*inputs, blocks)
        _decode(*inputs, *workspace, beside=True)
        return out
    _decode(*inputs, *workspace)
    if len(batch.query_lens) > batch.num_decodes:
        _prefill(*inputs)
    return out


def _prompt_blocks(query: Tensor, k_cache: Tensor, batch: RaggedBatch, window: int | None) -> int:
    """Thread blocks for prompt chunks while decodes run beside them; 0: they do not."""
    if _launcher(query) != WGMMA:
        return 0
    name = f"prompt_blocks{window}"
    if name not in batch.derived:
        _, heads, head_dim = query.shape
        reading = decode_us(batch, k_cache.shape[1], head_dim, window)
        computing = prefill_us(batch, heads, head_dim, window)
        batch.derived[name] = prompt_multiprocessors(reading, computing, multiprocessors(query.device))
    blocks: int = batch.derived[name]
    return blocks


def _splits(query: Tensor, k_cache: Tensor, batch: RaggedBatch, window: int | None) -> int:
    """Parts of each decode's context: the same beside prompts, so that its bits do not depend on them."""
    name = f"decode_splits{window}"
    if name not in batch.derived:
        num, kv_heads = batch.num_decodes, k_cache.shape[1]
        seen = [tokens if window is None else min(tokens, window) for tokens in batch.context_lens_host[:num]]
        head_tiles = kv_heads * -(-query.shape[1] // kv_heads // GROUP_ROWS)
        batch.derived[name] = decode_splits(seen, head_tiles, multiprocessors(query.device))
    splits: int = batch.derived[name]
    return splits


def _decode(
    library: Library,
    out: Tensor,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
    sums: Tensor | None,
    weights: Tensor | None,
    beside: bool = False,
) -> None:
    """sums, weights: of `_workspace`. beside: prompt chunks, which have just been launched and leave
    multiprocessors to it."""
    _, heads, head_dim = query.shape
    splits = 1 if weights is None else weights.shape[2]
    launch(
        library,
        "mii_attention_decode",
        *(out, sums, weights, query, k_cache, v_cache, batch.block_tables, batch.context_lens),
        *(batch.num_decodes, query.stride(0), batch.block_tables.stride(0)),
        *(heads, k_cache.shape[1], head_dim, splits),
        *(window or 0, int(beside), scale, query.dtype),
        on=query,
    )


def _prefill(
    library: Library,
    out: Tensor,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
    blocks: int = 0,
) -> None:
    """blocks: the most that there are at a time; 0: one for each multiprocessor."""
    _, heads, head_dim = query.shape
    launcher = _launcher(query)
    tables, contexts, starts, number, tiles = _chunks(batch, head_dim)
    launch(
        library,
        launcher,
        *(out, query, k_cache, v_cache, tables, contexts, starts),
        *(number, tiles, query.stride(0), tables.stride(0)),
        *(heads, k_cache.shape[1], head_dim, window or 0),
        *([blocks] if launcher == WGMMA else []),
        *(scale, query.dtype),
        on=query,
    )


def _chunks(batch: RaggedBatch, head_dim: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Of the prompt chunks: block tables, context lengths, where their tokens start; how many there are, and
    how many tiles. The same for all layers, whose heads are of one width."""
    if "chunks" not in batch.derived:
        first = batch.num_decodes
        batch.derived["chunks"] = (
            *(batch.block_tables[first:], batch.context_lens[first:], batch.cu_seqlens[first:]),
            *(len(batch.query_lens) - first, prefill_tiles(batch.query_lens[first:], head_dim)),
        )
    chunks: tuple[Tensor, Tensor, Tensor, int, int] = batch.derived["chunks"]
    return chunks


def _launcher(query: Tensor) -> str:
    return prefill_launcher(query.shape[2], query.data_ptr(), query.stride(0), capability(query.device))


def serves(k_cache: Tensor) -> bool:
    """Whether the kernels run over a cache like this."""
    block_size, head_dim = k_cache.shape[2:]
    return (
        k_cache.dtype in (torch.bfloat16, torch.float16)
        and head_dim in HEAD_DIMS
        and block_size == BLOCK_SIZE
    )


def _served(query: Tensor, k_cache: Tensor, v_cache: Tensor, batch: RaggedBatch, scale: float) -> bool:
    head_dim = query.shape[2]
    return (
        serves(k_cache)
        and query.dtype == k_cache.dtype == v_cache.dtype
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
        and (k_cache.data_ptr() | v_cache.data_ptr()) % 16 == 0
        and query.stride()[1:] == (head_dim, 1)
        and query.stride(0) % 2 == 0
        and query.data_ptr() % 4 == 0
        and batch.block_tables.stride(1) == 1
        and batch.num_decodes <= MAX_DECODES
        and scale > 0
    )


def _workspace(splits: int, query: Tensor, decodes: int) -> tuple[Tensor | None, Tensor | None]:
    """Of several splits: each one's sums, and the weights of these."""
    if splits == 1:
        return None, None
    _, heads, head_dim = query.shape
    sums = torch.empty((decodes, heads, splits, head_dim), dtype=torch.float32, device=query.device)
    return sums, torch.empty(sums.shape[:3], dtype=torch.float32, device=query.device)
