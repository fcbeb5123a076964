"""The way of weights from mapped files to a GPU: by way of two pinned buffers.

    mapped file ──torch's threads──> buffer ──DMA──> GPU
    mapped file ──torch's threads──> buffer ──DMA──> GPU     …in turns

A plain copy of mapped memory to a device goes through one thread of the driver. Here all of torch's threads
read, and convert to the model's dtype, what the device takes in the meantime.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle

import torch
from torch import Tensor

BUFFER_BYTES = 32 << 20


class Staging:
    """Of one device; not thread-safe. torch keeps the buffers' memory afterwards, for its own copies."""

    def __init__(self, device: torch.device, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._device = device
        self._bytes = buffer_bytes
        self._buffers = cycle([_Buffer(device, buffer_bytes) for _ in range(2)])

    def upload(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """parts [rows, …] of any strides, on the CPU -> [all rows, …] on the device, in `dtype`.

        The last bytes may still be on their way, on the device's current stream.
        """
        rows = [part.shape[0] for part in parts]
        out = torch.empty((sum(rows), *parts[0].shape[1:]), dtype=dtype, device=self._device)
        for target, part in zip(out.split(rows), parts, strict=True):
            for to, chunk in chunks(target, part, self._bytes):
                next(self._buffers).copy(to, chunk)
        return out


class _Buffer:
    def __init__(self, device: torch.device, size: int) -> None:
        on_gpu = device.type == "cuda"
        self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
        self._emptied = torch.cuda.Event() if on_gpu else None

    def copy(self, to: Tensor, chunk: Tensor) -> None:
        """Waits only for the device to have emptied the buffer."""
        if self._emptied is not None:
            self._emptied.synchronize()
        host = self._bytes[: to.nbytes].view(to.dtype).view(to.shape)
        host.copy_(chunk)
        to.copy_(host, non_blocking=True)
        if self._emptied is not None:
            self._emptied.record()


def chunks(target: Tensor, source: Tensor, nbytes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of parts that cover both; those of the contiguous target have at most so many bytes.

    A source that is not contiguous (columns were cut) is split by rows, of which one has to fit.
    """
    if source.is_contiguous():
        target, source = target.view(-1), source.view(-1)
    row = target[:1].nbytes
    if row == 0:
        return iter(())
    assert row <= nbytes, "a row fits into the buffer"
    return zip(target.split(nbytes // row), source.split(nbytes // row), strict=True)
