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
# Of cuBLAS, as far as its times tell: tokens and rows of a thread block, and the speed beside the fastest's.
_CUBLAS_TILES = ((128, 128, 1.0), (64, 256, 0.95))
# Of a product's time, what it takes to activate its result by itself: 8192 tokens by 28672 x 4096.
_ACTIVATING = 0.09
# What adding it takes as a part of the product's time is this / k: two accesses of 2 bytes at 2.8 TB/s, where
# the product has 2 k operations at 720 TFLOP/s.
_ADDING = 520.0
_ALIGNMENT = 8  # of n and k, for the copy engine


def linear(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.shape[0] <= skinny_gemm.MAX_TOKENS:
        return skinny_gemm.linear(library, x, weight, bias)
    if bias is not None or not _served(x, weight):
        return reference.linear(x, weight, bias)
    return _product(library, "mii_gemm", x, weight, _new(x, weight.shape[0]), False)


def linear_onto(
    library: Library, x: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor
) -> tuple[Tensor, Tensor | None]:
    """x [tokens, k], weight [n, k], onto [tokens, n]."""
    addable = onto.dtype == x.dtype and onto.is_contiguous() and onto.data_ptr() % 16 == 0
    if bias is not None or not addable or not _served(x, weight, spared=_ADDING / x.shape[1]):
        return linear(library, x, weight, bias), onto
    return _product(library, "mii_gemm", x, weight, onto, True), None


def gated_linear(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """x [tokens, k], weight [2 n, k], bias [2 n] -> [tokens, n]."""
    if bias is not None or weight.shape[0] % (2 * _ALIGNMENT) or not _served(x, weight, spared=_ACTIVATING):
        return activate_and_mul(library, linear(library, x, weight, bias), kind)
    return _product(library, "mii_gated_gemm", x, weight, _new(x, weight.shape[0] // 2), ACTIVATIONS[kind])


@lru_cache(maxsize=4096)
def pays(tokens: int, rows: int, count: int, spared: float) -> bool:
    """Whether our kernel is no slower for so many rows of a weight on `count` multiprocessors. Its tiles are
    large: where the last of them leave more multiprocessors idle than cuBLAS would, that one is faster.
    `spared`: what follows cuBLAS only, as a part of the product's time."""
    ours = _busy(tokens, rows, count // 2, _TILE, _TILE) * (1 + spared)
    theirs = max(speed * _busy(tokens, rows, count, tall, wide) for tall, wide, speed in _CUBLAS_TILES)
    return ours >= theirs - 1e-9


def even_tokens(count: int) -> int:
    """So many tokens that their tiles by an even number of a weight's keep all multiprocessors busy to the
    end: thread blocks take 128 each, so there is one for every two of `count`."""
    return 64 * count


def _busy(tokens: int, rows: int, units: int, tall: int, wide: int) -> float:
    """The part of what `units` could multiply until the last tile is done that they are asked for."""
    tiles = -(-tokens // tall) * -(-rows // wide)
    return tokens * rows / (-(-tiles // units) * units * tall * wide)


def _new(x: Tensor, n: int) -> Tensor:
    return torch.empty((x.shape[0], n), dtype=x.dtype, device=x.device)


def _product(library: Library, launcher: str, x: Tensor, weight: Tensor, out: Tensor, option: int) -> Tensor:
    shape = *out.shape, x.shape[1]
    launch(library, launcher, out, x, weight, *shape, multiprocessors(x.device), option, x.dtype, on=x)
    return out


def _served(x: Tensor, weight: Tensor, spared: float = 0.0) -> bool:
    rows, k = weight.shape
    return (
        x.shape[0] > skinny_gemm.MAX_TOKENS
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.dtype == weight.dtype
        and not weight.is_mkldnn
        and rows % _ALIGNMENT == k % _ALIGNMENT == 0
        and x.is_contiguous()
        and weight.is_contiguous()
        and (x.data_ptr() | weight.data_ptr()) % 16 == 0
        and capability(x.device) == (9, 0)
        and pays(x.shape[0], rows, multiprocessors(x.device), spared)
    )
