"""RMSNorm and LayerNorm, each taking the residual stream along."""

from torch import Tensor

from mii.layers.collectives import Collectives
from mii_kernels import ops


class Norm:
    """(x, residual) -> (norm(x + residual), x + residual), [tokens, n] each.

    Row-parallel layers leave every rank with a part of their sum, and what joins the residual stream next is
    always a norm. So it is here that an x that comes with a residual is summed over the ranks, and here that
    one kernel can do both.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        *,
        rms: bool,
        collectives: Collectives | None = None,
    ) -> None:
        """weight, bias [n]."""
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self.rms = rms
        self.collectives = collectives

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ranks = self.collectives
        if ranks is not None and residual is not None:
            both = ranks.all_reduce_norm(x, residual, self.weight, self.bias, self.eps, rms=self.rms)
            if both is not None:
                return both
            x = ranks.all_reduce(x)
        if self.rms:
            return ops.rms_norm(x, self.weight, self.eps, residual)
        return ops.layer_norm(x, self.weight, self.bias, self.eps, residual)
