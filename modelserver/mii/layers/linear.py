"""A weight matrix with an optional bias, in the layout its backend multiplies fastest."""

from torch import Tensor

from mii_kernels import ops


class Linear:
    """x [tokens, in] -> [tokens, out]."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, pack: bool = True, partial: bool = False
    ) -> None:
        """weight [out, in], bias [out]. `partial`: this is one rank's part of a sum."""
        self.weight = ops.pack_weight(weight) if pack else weight
        self.bias = bias
        self.partial = partial

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def onto(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x [tokens, in], residual [tokens, out] -> the summands of the residual stream that a norm takes.
        Where they come as one, it is in the residual's place."""
        if residual is None or self.partial:
            return self(x), residual
        return ops.linear_onto(x, self.weight, self.bias, residual)

    def gated(self, x: Tensor, activation: str) -> Tensor:
        """x [tokens, in] -> [tokens, out / 2]: the first half of the outputs, activated, times the other."""
        return ops.gated_linear(x, self.weight, self.bias, activation)


class QuantisedLinear(Linear):
    """The same in 8-bit floats: the weight by output channels, once; x by tokens, at each call."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, pack: bool = True, partial: bool = False
    ) -> None:
        """weight [out, in] and bias [out], not quantised."""
        values, self.scales = ops.quantise_weight(weight)
        self.weight = ops.pack_quantised(values) if pack else values
        self.bias = bias
        self.partial = partial

    def __call__(self, x: Tensor) -> Tensor:
        return ops.quantised_linear(x, self.weight, self.scales, self.bias)

    def onto(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self(x), residual

    def gated(self, x: Tensor, activation: str) -> Tensor:
        return ops.activate_and_mul(self(x), activation)
