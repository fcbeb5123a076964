"""The dense feed-forward layer, gated or plain."""

from torch import Tensor

from mii.layers.linear import Linear
from mii_kernels import ops


class MLP:
    """x [tokens, n] -> [tokens, n], and what has become of the residual (see Linear.onto)."""

    def __init__(self, up: Linear, down: Linear, activation: str, *, gated: bool) -> None:
        """`up` yields the gate's half and then the other half when `gated`."""
        self.up = up
        self.down = down
        self.activation = activation
        self.gated = gated

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if self.gated:
            return self.down.onto(self.up.gated(x, self.activation), residual)
        return self.down.onto(ops.activate(self.up(x), self.activation), residual)
