"""Weights of a model: read from its checkpoint, or drawn at random; each tensor asked for by name and shape.

A decoder takes what its description says it has. What is missing, has another shape, or is left over ends
the loading with an error that names the tensor and the file.
"""

import difflib
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from mii.errors import ModelLoadError
from mii.models.shard import Span
from mii.models.snapshot import Snapshot
from mii.models.staging import Staging

_SHOWN = 10  # names in an error


class Checkpoint(Protocol):
    """Named tensors on disk. Names and row order are transformers'."""

    path: Path  # the file, or the index of several
    names: frozenset[str]
    total_bytes: int  # as stored

    def where(self, name: str) -> str:
        """The file that holds tensor `name`."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def nbytes(self, name: str) -> int:
        """As stored: a quantised tensor has fewer than once it is read."""

    def tensor(self, name: str) -> torch.Tensor:
        """On the CPU, floating point; may be a view of the file, so it is not to be written to."""


def open_checkpoint(snapshot: Snapshot) -> Checkpoint:
    """The checkpoint of `snapshot`: headers are read and checked, tensors only when they are asked for.

    Raises ModelLoadError naming the file that is missing, corrupt or cut short.
    """
    if snapshot.gguf:
        from mii.models.gguf_file import open_gguf
        from mii.models.gguf_weights import GGUFCheckpoint

        return GGUFCheckpoint(open_gguf(snapshot.gguf))
    from mii.models.safetensors_file import SafetensorsCheckpoint

    return SafetensorsCheckpoint(snapshot.directory)


class WeightReader:
    """Takes a checkpoint's tensors one by one, and knows at the end which were not taken.

    `ignore`: regular expressions (searched) of names that may be left over. `on_bytes` is called with
    the stored bytes of each tensor taken.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        ignore: Sequence[str] = (),
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._device = torch.device(device)
        self._staging = Staging(self._device) if self._device.type == "cuda" else None
        self._ignore = [re.compile(pattern) for pattern in ignore]
        self._on_bytes = on_bytes
        self._taken: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self._checkpoint.names

    def take(
        self, name: str, *shape: int, rows: Sequence[Span] = (), columns: Span | None = None
    ) -> torch.Tensor:
        """Tensor `name`, `shape`, or what `rows` and `columns` cut out of it (see `cut`), in the reader's
        dtype and on its device.

        Where dtype and device are the checkpoint's own it is a view of the mapped file, not a copy; what is
        cut away of a mapped file is not read. Raises ModelLoadError if it is missing or of another shape.
        """
        checkpoint = self._checkpoint
        if name not in checkpoint.names:
            raise ModelLoadError(f"{checkpoint.path}: no tensor {name!r}{_similar(name, checkpoint.names)}")
        if (actual := checkpoint.shape(name)) != shape:
            raise ModelLoadError(
                f"{checkpoint.where(name)}: tensor {name!r} has shape {actual},"
                f" the model's config asks for {shape}"
            )
        tensor = self._read(views(checkpoint.tensor(name), rows, columns))
        self._taken.add(name)
        if self._on_bytes:
            self._on_bytes(checkpoint.nbytes(name))
        return tensor

    def _read(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        if self._staging is not None:
            return self._staging.upload(parts, self._dtype)
        return joined(parts).to(device=self._device, dtype=self._dtype)

    def finish(self) -> None:
        """Raises ModelLoadError if tensors are left that nobody took and nobody may ignore."""
        left = sorted(name for name in self._checkpoint.names - self._taken if not self._ignored(name))
        if left:
            shown = ", ".join(f"{name!r} in {self._checkpoint.where(name)}" for name in left[:_SHOWN])
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            raise ModelLoadError(f"the model has no use for {len(left)} tensor(s): {shown}{more}")

    def _ignored(self, name: str) -> bool:
        return any(pattern.search(name) for pattern in self._ignore)


def cut(tensor: torch.Tensor, rows: Sequence[Span] = (), columns: Span | None = None) -> torch.Tensor:
    """The spans of `rows` one after another, of each row `columns`; all where there are none given.

    Contiguous; a view of `tensor` as far as that is possible.
    """
    return joined(views(tensor, rows, columns))


def views(tensor: torch.Tensor, rows: Sequence[Span], columns: Span | None) -> list[torch.Tensor]:
    """The same, not yet put together."""
    if columns is not None:
        tensor = tensor[:, slice(*columns)]
    return [tensor[slice(*span)] for span in rows] or [tensor]


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(list(parts))


def _similar(name: str, names: frozenset[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f"; there is {close[0]!r}" if close else ""


class RandomWeights:
    """Draws whatever is asked for: normal(0, 0.02), and ones for norms.

    The same seed, name and shape give the same tensor, in whatever order they are taken.
    """

    def __init__(self, *, dtype: torch.dtype, device: torch.device | str, seed: int = 0) -> None:
        self._dtype = dtype
        self._device = device
        self._seed = seed

    def has(self, name: str) -> bool:  # noqa: ARG002 - WeightReader's signature
        """Nothing optional (a head beside tied embeddings): what must be there is taken without asking."""
        return False

    def take(
        self, name: str, *shape: int, rows: Sequence[Span] = (), columns: Span | None = None
    ) -> torch.Tensor:
        """What `rows` and `columns` cut out of a tensor `shape`, drawn on the device."""
        whole = self._draw(name, shape)
        part = cut(whole, rows, columns)
        return part if part.numel() == whole.numel() else part.clone()  # lets go of the rest

    def _draw(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1 and "norm" in name and not name.endswith("bias"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        generator = torch.Generator(self._device).manual_seed(self._seed ^ zlib.crc32(name.encode()))
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        return tensor.normal_(0.0, 0.02, generator=generator)

    def finish(self) -> None:
        """Nothing is ever left over."""
