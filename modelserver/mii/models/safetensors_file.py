"""A checkpoint in safetensors files: one, or several with an index. Memory-mapped, read lazily."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mii.errors import ModelLoadError
from mii.models.safetensors_index import INDEX, SINGLE, shard_files

if TYPE_CHECKING:
    from safetensors import safe_open

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SafetensorsCheckpoint:
    """The Checkpoint of a directory with model.safetensors, or shards and their index."""

    def __init__(self, directory: Path) -> None:
        shards = shard_files(directory)
        if not shards:
            raise ModelLoadError(f"{directory}: has neither {SINGLE} nor {INDEX}")
        self.path = directory / (INDEX if (directory / INDEX).exists() else SINGLE)
        self._files: dict[str, tuple[Path, Any]] = {}  # tensor -> its file, path and handle
        self.total_bytes = 0
        for name, tensors in shards.items():
            self._add(directory / name, tensors)
        self.names = frozenset(self._files)

    def _add(self, path: Path, indexed: list[str]) -> None:
        handle = _open(path)
        present = set(handle.keys())  # type: ignore[no-untyped-call]
        if missing := sorted(set(indexed) - present):
            raise ModelLoadError(f"{path}: no tensor {missing[0]!r}, which {self.path.name} says is there")
        self._files |= dict.fromkeys(present, (path, handle))
        self.total_bytes += _data_bytes(path)

    def where(self, name: str) -> str:
        return str(self._files[name][0])

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name][1].get_slice(name).get_shape())

    def nbytes(self, name: str) -> int:
        return math.prod(self.shape(name)) * self._dtype(name).itemsize

    def tensor(self, name: str) -> torch.Tensor:
        """A view of the mapped file (copy-on-write): pages are read when they are first touched."""
        self._dtype(name)
        path, handle = self._files[name]
        try:
            tensor: torch.Tensor = handle.get_tensor(name)
        except Exception as error:  # safetensors raises its own type, torch RuntimeError
            raise ModelLoadError(f"{path}: tensor {name!r} cannot be read: {error}") from error
        return tensor

    def _dtype(self, name: str) -> torch.dtype:
        path, handle = self._files[name]
        dtype = handle.get_slice(name).get_dtype()
        if dtype not in _DTYPES:
            raise ModelLoadError(
                f"{path}: tensor {name!r} is {dtype}, weights must be one of {', '.join(_DTYPES)};"
                " use a checkpoint that is not quantised"
            )
        return _DTYPES[dtype]


def _open(path: Path) -> "safe_open":
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path}: missing, though {INDEX} names it") from error
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ModelLoadError(
            f"{path} ({size} bytes): not a whole safetensors file ({error}); it may be cut short:"
            " download it again"
        ) from error


def _data_bytes(path: Path) -> int:
    """The file without its header, which starts with its own length (8 bytes, little-endian)."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return path.stat().st_size - 8 - header
