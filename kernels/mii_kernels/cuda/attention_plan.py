"""What is decided on the host before attention is launched."""

from collections.abc import Sequence

from mii_kernels.batch import RaggedBatch

BLOCK_SIZE = 64
GROUP_ROWS = 16  # query heads of a KV head that one thread block serves
WGMMA = "mii_attention_prefill_wgmma"
MAX_SPLITS = 64
SPLIT_TILES = 4096  # MII_SPLIT_TILES: thread blocks, before they are split, that may be

# Microseconds of `decode_splits`, of an H100 and 128 columns a head; others differ little in what is best.
_TILE = 1.1  # until a thread block that has a multiprocessor to itself is done with a tile
_BUSY_TILE = 1.44  # the same for a multiprocessor, where memory is busy: 32 KiB of 3 TB/s over 132
_MEET = 2.0  # until the parts have found out which of them is last, and that one has read them
_PART = 0.06  # for each that it reads

# Of `prompt_multiprocessors`, of an H100.
_BYTES_PER_US = 2.8e6  # that decodes read
_FLOPS_PER_US = 4.8e8  # of prompt chunks
_SATURATING = 0.4  # of the multiprocessors keep memory busy: 0.35, and more for decodes that begin last
_WORTH_SHARING = 10.0  # microseconds: of what takes less, nothing is gained beside something else


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
    return WGMMA if wgmma else "mii_attention_prefill"


def prefill_tiles(query_lens: list[int], head_dim: int) -> int:
    """Thread blocks for one head of these sequences; csrc/mii.h has the number of rows."""
    rows = 64 if head_dim == 256 else 128
    return sum(-(-length // rows) for length in query_lens)


def prompt_multiprocessors(reading: float, computing: float, count: int) -> int:
    """How many of `count` multiprocessors prompt chunks get while decodes have the others, so that both are
    done at about the same time; 0: the one is better done after the other.

    reading, computing: microseconds of the decodes and of the chunks, each with all multiprocessors. Decodes
    wait for memory, which some of the multiprocessors keep busy, chunks for tensor cores, which each has.
    """
    if min(reading, computing) < _WORTH_SHARING or count < 2:
        return 0
    enough = max(1, round(count * _SATURATING))
    others = reading * count * enough / (computing * count + reading * enough)
    return count - max(1, min(enough, round(others)))


def decode_us(batch: RaggedBatch, kv_heads: int, head_dim: int, window: int | None) -> float:
    """Of the attention of a batch's decodes."""
    contexts = batch.context_lens_host[: batch.num_decodes]
    tokens = sum(contexts if window is None else (min(context, window) for context in contexts))
    return tokens * kv_heads * head_dim * 4 / _BYTES_PER_US


def prefill_us(batch: RaggedBatch, heads: int, head_dim: int, window: int | None) -> float:
    """Of the attention of a batch's prompt chunks."""
    first = batch.num_decodes
    lengths = zip(batch.query_lens[first:], batch.context_lens_host[first:], strict=True)
    seen = (tokens * min(context - tokens / 2, window or context) for tokens, context in lengths)
    return sum(seen) * heads * head_dim * 4 / _FLOPS_PER_US
