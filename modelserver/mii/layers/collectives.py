"""What the ranks of one model do together, as its layers see it."""

from typing import Protocol

from torch import Tensor


class Collectives(Protocol):
    """Every rank calls the same methods in the same order. Layers hold None where there is one rank."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, any shape, the same bits on each of them; x itself may be overwritten."""

    def all_reduce_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, rms: bool
    ) -> tuple[Tensor, Tensor] | None:
        """`all_reduce`, then the norm with its residual (layers/norm.py), at once. None where nothing does
        both: then nothing has happened, and on no rank."""

    def all_gather(self, x: Tensor, width: int) -> Tensor:
        """x [n, m] of every rank side by side, [n, width] of them: width is at most ranks * m."""
