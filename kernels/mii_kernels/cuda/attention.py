"""Paged attention: one launch for the decodes of a batch, one for its prompt chunks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.batch import RaggedBatch
from mii_kernels.cuda.arguments import capability, launch, multiprocessors

HEAD_DIMS = (64, 80, 96, 128, 256)
BLOCK_SIZE = 64
GROUP_ROWS = 16  # query heads of a KV head that one thread block serves
MAX_SPLITS = 64
SPLIT_TILES = 4096  # MII_SPLIT_TILES: thread blocks, before they are split, that may be
MAX_DECODES = 65535  # CUDA's limit to the third dimension of a grid

# Microseconds of `decode_splits`, of an H100 and 128 columns a head; others differ little in what is best.
_TILE = 1.1  # until a thread block that has a multiprocessor to itself is done with a tile
_BUSY_TILE = 1.44  # the same for a multiprocessor, where memory is busy: 32 KiB of 3 TB/s over 132
_MEET = 2.0  # until the parts have found out which of them is last, and that one has read them
_PART = 0.06  # for each that it reads


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
    if batch.num_decodes:
        _decode(library, out, query, k_cache, v_cache, batch, scale, window)
    if len(batch.query_lens) > batch.num_decodes:
        _prefill(library, out, query, k_cache, v_cache, batch, scale, window)
    return out


def decode_splits(contexts: Sequence[int], head_tiles: int, multiprocessors: int) -> int:
    """Into how many parts each context is split, so that memory is busy until all thread blocks are done.

    contexts: the tokens that each decode has to read; head_tiles: thread blocks for one token's heads. More
    than SPLIT_TILES of these are not split: where parts meet, each has a counter.
    """
    tiles = [-(-tokens // BLOCK_SIZE) for tokens in contexts]
    longest, all_tiles = max(1, *tiles), head_tiles * sum(tiles)

    def time(splits: int) -> float:
        one_block, memory = -(-longest // splits) * _TILE, all_tiles * _BUSY_TILE / multiprocessors
        return max(one_block, memory) + (_MEET + splits * _PART if splits > 1 else 0)

    most = MAX_SPLITS if len(contexts) * head_tiles <= SPLIT_TILES else 1
    return min(range(1, min(longest, most) + 1), key=time)


def prefill_launcher(
    head_dim: int, query_address: int, query_stride: int, capability: tuple[int, int]
) -> str:
    """The function of csrc/mii.h for prompt chunks, from what the devices and the launchers ask for."""
    aligned = query_address % 16 == 0 and query_stride % 8 == 0
    wgmma = capability == (9, 0) and head_dim <= 128 and aligned
    return "mii_attention_prefill_wgmma" if wgmma else "mii_attention_prefill"


def prefill_tiles(query_lens: list[int], head_dim: int) -> int:
    """Thread blocks for one head of these sequences; csrc/mii.h has the number of rows."""
    rows = 64 if head_dim == 256 else 128
    return sum(-(-length // rows) for length in query_lens)


def _decode(
    library: Library,
    out: Tensor,
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
) -> None:
    num, heads, kv_heads, head_dim = batch.num_decodes, query.shape[1], k_cache.shape[1], query.shape[2]
    name = f"decode_splits{window}"
    if name not in batch.derived:
        seen = [tokens if window is None else min(tokens, window) for tokens in batch.context_lens_host[:num]]
        head_tiles = kv_heads * -(-heads // kv_heads // GROUP_ROWS)
        batch.derived[name] = decode_splits(seen, head_tiles, multiprocessors(query.device))
    splits = batch.derived[name]
    launch(
        library,
        "mii_attention_decode",
        *(out, *_workspace(num, heads, splits, head_dim, query.device)),
        *(query, k_cache, v_cache, batch.block_tables, batch.context_lens),
        *(num, query.stride(0), batch.block_tables.stride(0), heads, kv_heads, head_dim, splits),
        *(window or 0, scale, query.dtype),
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
) -> None:
    first, heads, head_dim = batch.num_decodes, query.shape[1], query.shape[2]
    if "prefill_tiles" not in batch.derived:
        batch.derived["prefill_tiles"] = prefill_tiles(batch.query_lens[first:], head_dim)
    launch(
        library,
        prefill_launcher(head_dim, query.data_ptr(), query.stride(0), capability(query.device)),
        *(out, query, k_cache, v_cache),
        *(batch.block_tables[first:], batch.context_lens[first:], batch.cu_seqlens[first:]),
        *(len(batch.query_lens) - first, batch.derived["prefill_tiles"]),
        *(query.stride(0), batch.block_tables.stride(0)),
        *(heads, k_cache.shape[1], head_dim, window or 0, scale, query.dtype),
        on=query,
    )


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


def _workspace(
    num: int, heads: int, splits: int, head_dim: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Of several splits: each one's sums, and the weights of these."""
    if splits == 1:
        return None, None
    sums = torch.empty((num, heads, splits, head_dim), dtype=torch.float32, device=device)
    return sums, torch.empty((num, heads, splits), dtype=torch.float32, device=device)
