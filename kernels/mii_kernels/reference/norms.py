"""RMSNorm and LayerNorm, each fused with the residual addition before it."""

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """Root-mean-square norm over the last dimension, computed in float32 (Zhang & Sennrich, 2019)."""
    summed = x if residual is None else x + residual
    wide = summed.float()
    normed = F.rms_norm(wide, (wide.shape[-1],), None, eps).to(x.dtype)
    return normed * weight, summed


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    summed = x if residual is None else x + residual
    return F.layer_norm(summed, (summed.shape[-1],), weight, bias, eps), summed
