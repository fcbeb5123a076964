"""Sums over the ranks of a model, each on a GPU of its own, through memory that they show each other."""

import ctypes
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mii_kernels._lib import Library
from mii_kernels.cuda.arguments import launch, served

Way = Literal["one_shot", "two_shot", "library"]

MAX_RANKS = 8  # as in mii.h, like the next two
ONE_SHOT_LIMIT = 1 << 20  # bytes of a message
TWO_SHOT_LIMIT = 32 << 20
_ALIGNMENT = 16
_MAX_ROW_BYTES = 32 << 10

# Up to how many bytes a way is taken, by the number of ranks (the next one that is listed).
#
# With N bytes, R ranks and B bytes a second out of each device, one shot takes one way, ~2 µs, and
# 2 (R - 1) N / B: what it sends is doubled, but needs no signal. Two shots take two ways and two signals,
# ~7 µs, and 2 (R - 1) / R N / B. With ~350 GB/s of NVLink they meet at 1.7 MB for two ranks, 0.4 MB for
# four, 0.14 MB for eight. On two H200 one shot takes 4 µs of 8 KiB and 11 of 1 MiB, two shots 7 to 110 up to
# 32 MiB, NCCL 10 to 146; on four, in one noisy run, one shot 11 and 27, two shots 14 to 173, NCCL 19 to 185.
# Three ranks, and more than four, have not been measured.
_ONE_SHOT_BYTES = {2: 1 << 20, 4: 256 << 10, 8: 128 << 10}
_TWO_SHOT_BYTES = {2: 32 << 20, 4: 32 << 20, 8: 4 << 20}


def way_for(nbytes: int, ranks: int) -> Way:
    """The fastest for a message of so many bytes. `library`: NCCL's."""
    if nbytes == 0 or ranks > MAX_RANKS:
        return "library"
    column = next(listed for listed in _ONE_SHOT_BYTES if listed >= ranks)
    if nbytes <= _ONE_SHOT_BYTES[column]:
        return "one_shot"
    return "two_shot" if nbytes <= _TWO_SHOT_BYTES[column] else "library"


class PeerReducer:
    """One rank's end. All ranks call the same methods with the same shapes in the same order, on one stream
    each; all get the same bits. Calls can be captured in CUDA graphs."""

    def __init__(self, library: Library, rank: int, buffers: Sequence[int], abandoned: Tensor) -> None:
        """`buffers`: the ranks' buffers, as this one's device sees them (`peer_memory`). abandoned [1] int32
        in pinned memory: once it is not 0, nobody waits any more, and results are undefined."""
        self.rank = rank
        self.ranks = len(buffers)
        self.abandoned = abandoned
        self._library = library
        self._buffers = (ctypes.c_void_p * self.ranks)(*buffers)

    def all_reduce(self, x: Tensor) -> Tensor | None:
        """The sum of all ranks' x, any shape, in place. None: not a case for this, and nothing is done."""
        way = way_for(x.nbytes, self.ranks)
        if way == "library" or not self.serves(x):
            return None
        return self.one_shot(x) if way == "one_shot" else self.two_shot(x)

    def all_reduce_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, rms: bool
    ) -> tuple[Tensor, Tensor] | None:
        """x, residual [rows, n], weight, bias [n] -> (norm(sum of all ranks' x + residual), the sum with the
        residual). None: not a case for this, and nothing is done."""
        row = x.shape[-1] * x.itemsize
        fits = row <= _MAX_ROW_BYTES and row % _ALIGNMENT == 0
        if way_for(x.nbytes, self.ranks) != "one_shot" or not fits:
            return None
        if not self.serves(x, residual, weight, bias):
            return None
        return self.fused(x, residual, weight, bias, eps, rms=rms)

    def fused(
        self, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, rms: bool
    ) -> tuple[Tensor, Tensor]:
        """The same for any x of at most ONE_SHOT_LIMIT bytes that the kernel serves."""
        out, summed = torch.empty_like(x), torch.empty_like(x)
        tensors = (out, summed, x, residual, weight, bias)
        sizes = (x.numel() // x.shape[-1], x.shape[-1])
        self._launch("mii_all_reduce_norm", tensors, sizes, int(rms), eps, x.dtype, on=x)
        return out, summed

    def one_shot(self, x: Tensor) -> Tensor:
        """In place; at most ONE_SHOT_LIMIT bytes."""
        self._launch("mii_all_reduce_one_shot", (x, x), (x.numel(),), x.dtype, on=x)
        return x

    def two_shot(self, x: Tensor) -> Tensor:
        """In place; at most TWO_SHOT_LIMIT bytes."""
        self._launch("mii_all_reduce_two_shot", (x, x), (x.numel(),), x.dtype, on=x)
        return x

    @staticmethod
    def serves(*tensors: Tensor | None) -> bool:
        given = [x for x in tensors if x is not None]
        return served(*given) and all(x.is_contiguous() and x.data_ptr() % _ALIGNMENT == 0 for x in given)

    def _launch(
        self,
        name: str,
        tensors: tuple[Tensor | None, ...],
        sizes: tuple[int, ...],
        *options: object,
        on: Tensor,
    ) -> None:
        ends = (self._buffers, self.abandoned, *sizes, self.rank, self.ranks)
        launch(self._library, name, *tensors, *ends, *options, on=on)
