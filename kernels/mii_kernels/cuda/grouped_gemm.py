"""Each expert's rows times its own weight. How many rows an expert has, only the device knows.

Few rows for each go to our kernel, which reads weights at the memory's speed; many to torch's `grouped_mm`.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import capability, launch, multiprocessors
from mii_kernels.cuda.skinny_gemm import SLAB, block_rows

TILES = (8, 16, 32, 64)  # rows of an expert that a thread block multiplies at once
PLAIN_TILE = 8
MAX_GROUPS = 1023  # of torch's
ALIGNMENT = 16  # bytes, of torch's rows and of our kernel's

# Of the expert with most rows: torch multiplies where there are more. With Mixtral's layers on an H100 ours
# takes 0.95 of torch's time at 9 rows (16 tokens) and less with fewer, 1.04 at 15 and 1.16 at 26.
MANY_ROWS = 12
# The same where torch waits for the device and multiplies expert by expert: it must save more than it costs.
MANY_ROWS_TO_WAIT = 256


def grouped_gemm(library: Library, x: Tensor, weight: Tensor, starts: Tensor, likely: int) -> Tensor:
    """x [rows, k], contiguous; weight [experts, n, k], contiguous; starts [experts + 1] int32 -> [rows, n].

    likely: about how many rows the expert with most has. Results do not depend on it, but speed does.
    """
    if _torch_fits(x, weight) and _torch_is_better(likely, x):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=starts[1:])
    experts, n, k = weight.shape
    out = torch.empty((len(x), n), dtype=x.dtype, device=x.device)
    args = (out, x, weight, starts, experts)
    if _tensor_cores_fit(x, weight):
        tile = tile_of(likely)
        slots = max_chunks(len(x), experts, tile)
        rows = block_rows(tile, min(slots, experts) * n, multiprocessors(x.device))
        launch(library, "mii_grouped_gemm", *args, slots, n, k, tile, rows, x.dtype, on=x)
    else:
        slots = max_chunks(len(x), experts, PLAIN_TILE)
        launch(library, "mii_plain_grouped_gemm", *args, slots, n, k, x.dtype, on=x)
    return out


@lru_cache(maxsize=4096)
def likely_rows(tokens: int, per_token: int, experts: int) -> int:
    """Of the expert with most rows, if tokens choose evenly and on their own: the mean and three times the
    standard deviation. A token chooses an expert once at most."""
    share = per_token / experts
    mean = tokens * share
    return min(tokens, round(mean + 3 * math.sqrt(mean * (1 - share))))


def tile_of(likely: int) -> int:
    """The smallest tile for so many rows: a second chunk costs more than idle columns of tensor cores."""
    return next((tile for tile in TILES if tile >= likely), TILES[-1])


def max_chunks(rows: int, groups: int, tile: int) -> int:
    """The most that the sum of ceil(rows of a group / tile) can be."""
    busy = min(rows, groups)
    return (rows + busy * (tile - 1)) // tile


def torch_multiplies(likely: int, *, waits: bool, capturing: bool) -> bool:
    """Whether torch's product is the better one. One that waits for the device cannot be captured."""
    if waits:
        return likely > MANY_ROWS_TO_WAIT and not capturing
    return likely > MANY_ROWS


def _torch_is_better(likely: int, x: Tensor) -> bool:
    waits = x.is_cuda and not (x.dtype == torch.bfloat16 and capability(x.device) == (9, 0))
    capturing = waits and torch.cuda.is_current_stream_capturing()
    return torch_multiplies(likely, waits=waits, capturing=capturing)


def _torch_fits(x: Tensor, weight: Tensor) -> bool:
    """Its rows, and those of what comes out, are multiples of 16 bytes; how many each expert has is free."""
    rows = (weight.shape[1] | weight.shape[2]) * x.dtype.itemsize
    return rows % ALIGNMENT == 0 and _aligned(x, weight) and len(weight) <= MAX_GROUPS


def _tensor_cores_fit(x: Tensor, weight: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16) and x.shape[1] % SLAB == 0 and _aligned(x, weight)


def _aligned(x: Tensor, weight: Tensor) -> bool:
    return (x.data_ptr() | weight.data_ptr()) % ALIGNMENT == 0
