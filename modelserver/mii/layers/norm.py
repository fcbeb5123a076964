"""RMSNorm and LayerNorm, each taking the residual stream along."""

from torch import Tensor

from mii_kernels import ops


class Norm:
    """(x, residual) -> (norm(x + residual), x + residual), [tokens, n] each."""

    def __init__(self, weight: Tensor, bias: Tensor | None, eps: float, *, rms: bool) -> None:
        """weight, bias [n]."""
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self.rms = rms

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.rms:
            return ops.rms_norm(x, self.weight, self.eps, residual)
        return ops.layer_norm(x, self.weight, self.bias, self.eps, residual)
