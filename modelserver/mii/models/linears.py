"""Linear layers out of a checkpoint: of each matrix the part that this rank multiplies with.

    replicated        all of it, on every rank
    column-parallel   some of its outputs (rows of the weight): the ranks' results lie side by side
    row-parallel      some of its inputs (columns of the weight): the ranks' results add up

The names are Megatron-LM's (Shoeybi et al., 2019), after the transposed weight.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mii.layers.linear import Linear, QuantisedLinear
from mii.models.shard import Shard, Span
from mii_kernels.ops import ExpertWeights


class Weights(Protocol):
    def has(self, name: str) -> bool: ...

    def take(self, name: str, *shape: int, rows: Sequence[Span] = (), columns: Span | None = None) -> Tensor:
        """The tensor, or of its rows and columns those given, contiguous, on its device and in its dtype.

        `shape` is the whole tensor's. Raises ModelLoadError if it is missing or misshapen.
        """

    def finish(self) -> None:
        """Raises ModelLoadError if the checkpoint holds tensors that nobody took."""


@dataclass(frozen=True)
class Part:
    """Rows of one matrix of a checkpoint, which has `outputs` of them."""

    name: str
    outputs: int
    rows: Sequence[Span]


class Linears:
    def __init__(self, weights: Weights, shard: Shard, *, pack: bool, quantise: bool = False) -> None:
        """`pack`: put weights into the backend's fastest layout. `quantise`: to 8-bit floats, each matrix
        before the next is read. Each rank has its own scales, of the columns that are its own too."""
        self.weights = weights
        self.shard = shard
        self.pack = pack
        self.kind = QuantisedLinear if quantise else Linear

    def replicated(self, name: str, inputs: int, outputs: int, *, bias: bool) -> Linear:
        return self.column_parallel([Part(name, outputs, ())], inputs, bias=bias)

    def column_parallel(self, parts: Sequence[Part], inputs: int, *, bias: bool) -> Linear:
        """Several matrices over the same input as one, in the order given."""
        take = self.weights.take
        weights = [take(f"{part.name}.weight", part.outputs, inputs, rows=part.rows) for part in parts]
        biases = [take(f"{part.name}.bias", part.outputs, rows=part.rows) for part in parts] if bias else []
        return self.of(_stacked(weights), _stacked(biases) if biases else None)

    def row_parallel(self, name: str, inputs: int, outputs: int, columns: Span, *, bias: bool) -> Linear:
        """The bias is added once, by the first rank."""
        weight = self.weights.take(f"{name}.weight", outputs, inputs, columns=columns)
        added = self.weights.take(f"{name}.bias", outputs) if bias else None
        return self.of(weight, added if self.shard.rank == 0 else None, partial=self.shard.size > 1)

    def of(self, weight: Tensor, bias: Tensor | None, *, partial: bool = False) -> Linear:
        return self.kind(weight, bias, pack=self.pack, partial=partial)


def of_experts(weights: Iterator[Tensor], count: int) -> ExpertWeights:
    """The weights [out, in] of `count` experts as one tensor [count, out, in], or as a list if they are
    packed. Each is let go of before the next one is read."""
    first = next(weights)
    if first.is_mkldnn:
        return [first, *weights]
    stacked = first.new_empty((count, *first.shape))
    stacked[0] = first
    del first
    for index in range(1, count):
        stacked[index] = next(weights)
    return stacked


def _stacked(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
