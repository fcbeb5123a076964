"""A weight matrix with an optional bias, in the layout its backend multiplies fastest."""

from torch import Tensor

from mii_kernels import ops


class Linear:
    """x [tokens, in] -> [tokens, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, pack: bool = True) -> None:
        """weight [out, in], bias [out]."""
        self.weight = ops.pack_weight(weight) if pack else weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)
