"""Products of 8-bit floats: tokens are quantised by our kernel, and multiplied by cuBLASLt."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import launch, served
from mii_kernels.reference.quantised import E4M3, scaled_product

MAX_ROW = 4096  # elements that every row may have, times those of an access
_ACCESS_BYTES = 16


def quantise(library: Library, x: Tensor) -> tuple[Tensor, Tensor]:
    if not served(x) or not _fits(x):
        return reference.quantise(x)
    x = x.contiguous()
    values = torch.empty(x.shape, dtype=E4M3, device=x.device)
    scales = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    launch(library, "mii_quantise", values, scales, x, *x.shape, x.dtype, on=x)
    return values, scales


def quantised_linear(
    library: Library, x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None
) -> Tensor:
    return scaled_product(*quantise(library, x), weight, scales, bias, x.dtype)


def _fits(x: Tensor) -> bool:
    """A row whose accesses are narrow may have fewer elements. A copy that becomes contiguous is aligned."""
    width = _ACCESS_BYTES // x.itemsize
    aligned = x.shape[1] % width == 0 and (not x.is_contiguous() or x.data_ptr() % _ACCESS_BYTES == 0)
    return x.shape[1] <= (MAX_ROW * width if aligned else MAX_ROW)
