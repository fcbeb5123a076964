"""A GGUF file, opened: its metadata as plain values and its tensors, still quantised.

The format is ggml's (docs/gguf.md in its repository); the `gguf` library reads it. Config, tokenizer and
weights all come out of one file, so the last file opened is kept.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mii.errors import ModelLoadError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from gguf.gguf_reader import ReaderTensor

# What the library raises on bytes that are not what the header says.
_CORRUPT = (ValueError, KeyError, IndexError, OverflowError, MemoryError)


@dataclass(frozen=True, eq=False)
class GGUFFile:
    path: Path
    metadata: dict[str, Any]  # str, int, float, bool, or a list of one of them
    tensors: dict[str, "ReaderTensor"]  # by ggml's names; data is memory-mapped, copy-on-write

    @property
    def architecture(self) -> str:
        """ggml's name of the model family ("llama", "qwen2"...)."""
        try:
            return str(self.metadata["general.architecture"])
        except KeyError:
            raise ModelLoadError(f"{self.path}: not a model: general.architecture is missing") from None


def open_gguf(path: Path) -> GGUFFile:
    """Reads the header of `path` and maps its tensors.

    Raises ModelLoadError if it is not a whole, little-endian GGUF file, or is a part of a split one.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error
    return _open(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)
def _open(path: Path, mtime_ns: int, size: int) -> GGUFFile:  # noqa: ARG001 - a file that changed is read anew
    try:
        reader = _reader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except _CORRUPT as error:
        raise ModelLoadError(
            f"{path} ({size} bytes): not a whole GGUF file ({error}); it may be cut short: download it again"
        ) from error
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error}") from error
    _refuse_unusual(path, reader, metadata)
    return GGUFFile(path, metadata, {tensor.name: tensor for tensor in reader.tensors})


def _reader(path: Path) -> "GGUFReader":
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ModelLoadError(f"{path}: reading GGUF needs the gguf package: pip install gguf") from error

    class Reader(GGUFReader):
        """Keeps the mapped file as a plain array: slicing a numpy.memmap takes three times as long."""

        @property  # type: ignore[override]
        def data(self) -> np.ndarray:
            return self._data

        @data.setter
        def data(self, mapped: np.memmap) -> None:
            self._data = mapped.view(np.ndarray)

    # Copy-on-write: torch warns about arrays that it could not write to, and nothing is ever written.
    return Reader(path, "c")


def _refuse_unusual(path: Path, reader: "GGUFReader", metadata: dict[str, Any]) -> None:
    if reader.byte_order != "I":
        raise ModelLoadError(f"{path}: is of the other byte order; convert it with gguf_convert_endian.py")
    if metadata.get("split.count", 1) > 1 or re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name):
        raise ModelLoadError(
            f"{path}: is one part of a split GGUF; join the parts first: llama-gguf-split --merge FIRST OUT"
        )
