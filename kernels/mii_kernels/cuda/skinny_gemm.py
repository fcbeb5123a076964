"""Matrix products of few tokens, on kernels that read the weight at the memory's speed."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import capability, launch, multiprocessors

MAX_TOKENS = 64
SLAB = 32  # what the number of columns is a multiple of
KIB = 1024

_MEMORY = 3.0e12  # bytes a second, somewhat more than large weights reach on an H100

# Of Hopper's kernel: with these the tilings chosen are slower than the fastest by 1.5 % in the mean, over 18
# weights by 8 to 64 tokens on an H100 (benchmarks/tilings.py). Bytes a second, then seconds.
_L2 = 1.5e13
_MULTIPROCESSOR = 8.0e10
_SHARPNESS = 6  # of the bound: the power of the sum that the three speeds make up
_MEETING = 1.0e-6  # until the pieces of a tile have found out which of them is last
_SUMMING = 1.5e-8  # in which that one adds up what a piece has found for one column of the product

# Of the general kernel, bytes a second: estimates.
_GENERAL_L2 = 5.5e12
_GENERAL_MULTIPROCESSOR = 5.0e10

_FEW_ROWS = (32, 40, 48, 56, 64)
_MANY_ROWS = (80, 96, 112, 128)  # for so many tokens that reading them for each tile counts
_SPLITS = (1, 2, 3, 4, 6, 8)
_SPLIT_TILES = 128  # that may be split
_STEP = 128  # elements of k of which a piece has at least some


class Tiling(NamedTuple):
    """How Hopper's kernel cuts a weight: tiles of `rows` rows, each in `splits` pieces along k."""

    rows: int
    splits: int


def linear(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not _served(x, weight, bias):
        return reference.linear(x, weight, bias)
    tokens, (n, k), count = x.shape[0], weight.shape, multiprocessors(x.device)
    if launcher(k, capability(x.device)) == "mii_skinny_wgmma":
        return tiled(library, x, weight, bias, tiling(tokens, n, k, count))
    out = torch.empty((tokens, n), dtype=x.dtype, device=x.device)
    rows = block_rows(tokens, n, count)
    launch(library, "mii_skinny_gemm", out, x, weight, bias, tokens, n, k, rows, x.dtype, on=x)
    return out


def tiled(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None, tiling: Tiling) -> Tensor:
    """By Hopper's kernel, with one of the `tilings`."""
    tokens, (n, k), (rows, splits) = x.shape[0], weight.shape, tiling
    pieces = -(-n // rows) * splits
    out = torch.empty((tokens, n), dtype=x.dtype, device=x.device)
    launch(
        library,
        "mii_skinny_wgmma",
        *(out, _partials(pieces, rows, tokens, x.device) if splits > 1 else None, x, weight, bias),
        *(tokens, n, k, rows, splits, min(multiprocessors(x.device), pieces), ring_bytes(tokens)),
        *(_may_overlap(x), x.dtype),
        on=x,
    )
    return out


def launcher(k: int, capability: tuple[int, int]) -> str:
    """The function of csrc/mii.h for weights [n, k] on such a device."""
    return "mii_skinny_wgmma" if capability == (9, 0) and k % 64 == 0 else "mii_skinny_gemm"


@lru_cache(maxsize=4096)
def tiling(tokens: int, n: int, k: int, count: int) -> Tiling:
    """How to cut the weight [n, k] on a GPU of `count` multiprocessors.

    Each piece reads its part of all tokens: large tiles spare L2. Pieces that are as many as multiprocessors,
    or a multiple of that, keep all of these busy. What the pieces of a split tile found is added up by one.
    """
    columns = tile_tokens(tokens)

    def time(tiling: Tiling) -> float:
        rows, splits = tiling
        waves, rest = divmod(-(-n // rows) * splits, count)
        sums = 0.0 if splits == 1 else _MEETING + _SUMMING * splits * columns
        return waves * wave(tiling, count) + wave(tiling, rest) + sums

    def wave(tiling: Tiling, pieces: int) -> float:
        per_row = 2 * k / tiling.splits  # bytes
        read = (tiling.rows + columns) * per_row
        least = read / _MULTIPROCESSOR if pieces else 0.0
        bounds = pieces * tiling.rows * per_row / _MEMORY, pieces * read / _L2, least
        return float(sum(bound**_SHARPNESS for bound in bounds) ** (1 / _SHARPNESS))

    return min(tilings(tokens, n, k), key=lambda it: (round(time(it), 8), it.splits, -it.rows))


def tilings(tokens: int, n: int, k: int) -> list[Tiling]:
    """Those to choose from."""
    heights = _FEW_ROWS if tile_tokens(tokens) < MAX_TOKENS else _FEW_ROWS + _MANY_ROWS
    choices = [Tiling(rows, splits) for rows in heights for splits in _SPLITS]
    return [choice for choice in choices if _may_split(n, k, choice)]


def tile_tokens(tokens: int) -> int:
    """The columns of the products for so many tokens."""
    return next(columns for columns in (8, 16, 32, 64) if columns >= tokens)


def ring_bytes(tokens: int) -> int:
    """Shared memory of a thread block for what is under way.

    With few tokens two blocks fit on a multiprocessor, so that the next product's weights are on their way
    while one ends. With many, the tokens take up a good part of it.
    """
    return 108 * KIB if tokens <= 32 else 200 * KIB


@lru_cache(maxsize=4096)
def block_rows(tokens: int, n: int, count: int) -> int:
    """Rows of the weight [n, k] that each thread block of the general kernel takes, likewise.

    Each block reads all tokens: large blocks spare L2, small ones keep all multiprocessors busy.
    """

    def time(rows: int) -> float:
        blocks = -(-n // rows)
        read = rows + tokens  # of a block, in rows of k elements
        least = -(-blocks // count) * read / _GENERAL_MULTIPROCESSOR
        return max(n / _MEMORY, blocks * read / _GENERAL_L2, least)

    return min((128, 32, 16) if tokens > 16 else (32, 16), key=time)


def _may_split(n: int, k: int, tiling: Tiling) -> bool:
    rows, splits = tiling
    return splits == 1 or (-(-n // rows) <= _SPLIT_TILES and splits * _STEP <= k)


def _partials(pieces: int, rows: int, tokens: int, device: torch.device) -> Tensor:
    size = pieces * (64 if rows <= 64 else 128) * tile_tokens(tokens)
    return torch.empty(size, dtype=torch.float32, device=device)


def _may_overlap(x: Tensor) -> bool:
    """Whether the weight has surely been written before the kernel before this one: in a graph, which is
    captured after weights were loaded."""
    return not x.is_cuda or torch.cuda.is_current_stream_capturing()


def _served(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        0 < x.shape[0] <= MAX_TOKENS
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.dtype == weight.dtype == (x if bias is None else bias).dtype
        and not weight.is_mkldnn
        and x.shape[1] % SLAB == 0
        and x.is_contiguous()
        and weight.is_contiguous()
        and (bias is None or bias.is_contiguous())
        and (x.data_ptr() | weight.data_ptr()) % 16 == 0
    )
