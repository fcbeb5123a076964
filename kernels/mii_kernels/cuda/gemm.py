"""Matrix products: of few tokens (skinny_gemm.py), of many on Hopper's tensor cores, else on cuBLAS."""

from functools import lru_cache

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import ACTIVATIONS, Library
from mii_kernels.cuda import skinny_gemm
from mii_kernels.cuda.activations import activate_and_mul
from mii_kernels.cuda.arguments import capability, launch, multiprocessors

_TILE = 256  # tokens of a cluster of two thread blocks, and rows of the weight
_CUBLAS_TILE = 128  # of a thread block
# Of a product's time, what it takes to activate its result by itself: 8192 tokens by 28672 x 4096.
_ACTIVATING = 0.09
_ALIGNMENT = 8  # of n and k, for the copy engine


def linear(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.shape[0] <= skinny_gemm.MAX_TOKENS:
        return skinny_gemm.linear(library, x, weight, bias)
    if bias is not None or not _served(x, weight, gated=False):
        return reference.linear(x, weight, bias)
    return _product(library, "mii_gemm", x, weight, weight.shape[0])


def gated_linear(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """x [tokens, k], weight [2 n, k], bias [2 n] -> [tokens, n]."""
    if bias is not None or not _served(x, weight, gated=True):
        return activate_and_mul(library, linear(library, x, weight, bias), kind)
    return _product(library, "mii_gated_gemm", x, weight, weight.shape[0] // 2, ACTIVATIONS[kind])


@lru_cache(maxsize=4096)
def pays(tokens: int, rows: int, count: int, *, gated: bool) -> bool:
    """Whether our kernel is no slower for so many rows of a weight on `count` multiprocessors. Its tiles are
    large: where the last of them leave more multiprocessors idle than cuBLAS would, that one is faster."""
    ours = _busy(tokens, rows, count // 2, _TILE) * (1 + _ACTIVATING * gated)
    return ours >= _busy(tokens, rows, count, _CUBLAS_TILE) - 1e-9


def _busy(tokens: int, rows: int, units: int, tile: int) -> float:
    """The part of what `units` could multiply until the last tile is done that they are asked for."""
    tiles = -(-tokens // tile) * -(-rows // tile)
    return tokens * rows / (-(-tiles // units) * units * tile**2)


def _product(library: Library, launcher: str, x: Tensor, weight: Tensor, n: int, *options: int) -> Tensor:
    tokens, k = x.shape
    out = torch.empty((tokens, n), dtype=x.dtype, device=x.device)
    count = multiprocessors(x.device)
    launch(library, launcher, out, x, weight, tokens, n, k, count, *options, x.dtype, on=x)
    return out


def _served(x: Tensor, weight: Tensor, *, gated: bool) -> bool:
    rows, k = weight.shape
    return (
        x.shape[0] > skinny_gemm.MAX_TOKENS
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.dtype == weight.dtype
        and not weight.is_mkldnn
        and rows % (2 * _ALIGNMENT if gated else _ALIGNMENT) == k % _ALIGNMENT == 0
        and x.is_contiguous()
        and weight.is_contiguous()
        and (x.data_ptr() | weight.data_ptr()) % 16 == 0
        and capability(x.device) == (9, 0)
        and pays(x.shape[0], rows, multiprocessors(x.device), gated=gated)
    )
