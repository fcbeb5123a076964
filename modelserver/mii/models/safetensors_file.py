"""A checkpoint in safetensors files: one, or several with an index. Memory-mapped, read lazily."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mii.errors import ModelLoadError

if TYPE_CHECKING:
    from safetensors import safe_open

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def shard_files(directory: Path) -> dict[str, list[str]]:
    """File name -> the tensors that the index says are in it; one file and [] where there is no index.

    Empty if the directory has no safetensors. Raises ModelLoadError if the index is not one.
    """
    path = directory / INDEX
    if not path.exists():
        return {SINGLE: []} if (directory / SINGLE).exists() else {}
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            shards.setdefault(_plain(file), []).append(name)
        return shards
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path}: not a safetensors index ({error!r}); download it again") from error


def _plain(file: str) -> str:
    """Refuses an index that points out of its directory."""
    if Path(file).name != file:
        raise ValueError(f"{file!r} is not a file name")
    return file


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
