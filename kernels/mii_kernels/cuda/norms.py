"""RMSNorm and LayerNorm, each fused with the residual addition before it."""

import torch
from torch import Tensor

from mii_kernels import reference
from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import launch, served

MAX_ROW = 4096  # elements that every row may have: what the narrowest access can hold


def rms_norm(
    library: Library, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    if not served(x, weight, residual) or not _fits(x):
        return reference.rms_norm(x, weight, eps, residual)
    rows, out, summed, layout = _prepare(x, residual)
    launch(library, "mii_rms_norm", out, summed, *rows, weight.contiguous(), *layout, eps, x.dtype, on=x)
    return out, x if summed is None else summed


def layer_norm(
    library: Library, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    if not served(x, weight, bias, residual) or not _fits(x):
        return reference.layer_norm(x, weight, bias, eps, residual)
    rows, out, summed, layout = _prepare(x, residual)
    parameters = weight.contiguous(), None if bias is None else bias.contiguous()
    launch(library, "mii_layer_norm", out, summed, *rows, *parameters, *layout, eps, x.dtype, on=x)
    return out, x if summed is None else summed


def _fits(x: Tensor) -> bool:
    return x.shape[-1] <= MAX_ROW or (x.shape[-1] % 8 == 0 and x.shape[-1] <= 4 * MAX_ROW)


def _prepare(
    x: Tensor, residual: Tensor | None
) -> tuple[tuple[Tensor, Tensor | None], Tensor, Tensor | None, tuple[int, int, int, int]]:
    """((x, residual), out, summed, (rows, n, inner, stride))."""
    n = x.shape[-1]
    rows = x.numel() // n if n else 0
    if residual is None and x.dim() == 3 and x.stride(2) == 1 and x.stride(1) == n:  # heads of each token
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return (x, None), out, None, (rows, n, max(x.shape[1], 1), x.stride(0))
    x = x.contiguous()
    out = torch.empty_like(x)
    if residual is None:
        return (x, None), out, None, (rows, n, 1, n)
    return (x, residual.contiguous()), out, torch.empty_like(x), (rows, n, 1, n)
