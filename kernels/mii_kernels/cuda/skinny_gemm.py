"""Matrix products: few rows on our kernel, which reads the weight at the memory's speed; more on cuBLAS."""

from functools import lru_cache

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import launch, multiprocessors

MAX_TOKENS = 64
SLAB = 32  # what the number of columns is a multiple of

# Of `block_rows`: bytes a second, of an H100. The first is its copy's, the others are estimates.
_MEMORY = 3.0e12
_L2 = 5.5e12
_MULTIPROCESSOR = 5.0e10


def linear(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not _served(x, weight, bias):
        return reference.linear(x, weight, bias)
    tokens, (n, k) = x.shape[0], weight.shape
    out = torch.empty((tokens, n), dtype=x.dtype, device=x.device)
    rows = block_rows(tokens, n, multiprocessors(x.device))
    launch(library, "mii_skinny_gemm", out, x, weight, bias, tokens, n, k, rows, x.dtype, on=x)
    return out


@lru_cache(maxsize=4096)
def block_rows(tokens: int, n: int, count: int) -> int:
    """Rows of the weight [n, k] that each thread block takes, on a GPU of `count` multiprocessors.

    Each block reads all tokens: large blocks spare L2, small ones keep all multiprocessors busy.
    """

    def time(rows: int) -> float:
        blocks = -(-n // rows)
        read = rows + tokens  # of a block, in rows of k elements
        return max(n / _MEMORY, blocks * read / _L2, -(-blocks // count) * read / _MULTIPROCESSOR)

    return min((128, 32, 16) if tokens > 16 else (32, 16), key=time)


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
