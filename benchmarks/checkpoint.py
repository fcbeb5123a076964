"""Checkpoints of a known shape, as large as the real ones: safetensors files with an index, filled quickly.

    python benchmarks/checkpoint.py mistral-7b DIRECTORY && mii serve DIRECTORY

The values are one block of small random numbers, none of them zero, over and over: where bytes go is what
takes time, not what they say. No more than that block is in memory.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

import shapes
from mii.models.builder import Builder
from mii.models.registry import describe
from mii.models.safetensors_index import INDEX
from mii.models.shard import Span

DTYPE, NAME = torch.bfloat16, "BF16"  # in safetensors
BLOCK = 4 << 20  # values; 8 MiB, which a cache holds
WRITERS = 4
FILE_BYTES = 5 * 10**9  # of a file at most, as Hugging Face's own
_ALIGNMENT = 8

Shapes = dict[str, tuple[int, ...]]  # of tensors, by name


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=shapes.SHAPES)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    write(options.shape, options.directory)
    return 0


def write(shape: str, directory: Path, *, file_bytes: int = FILE_BYTES) -> None:
    """Config, tokenizer and weights. The index comes last: where there is one, there is everything."""
    shapes.write(shape, directory)
    tensors, data = tensors_of(shapes.SHAPES[shape]), block()
    contents = in_files(tensors, file_bytes)
    names = [f"model-{number:05}-of-{len(contents):05}.safetensors" for number in range(1, len(contents) + 1)]
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(lambda name, held: write_file(directory / name, held, data), names, contents))
    weight_map = {tensor: name for name, held in zip(names, contents, strict=True) for tensor in held}
    index = {"metadata": {"total_size": sum(map(nbytes, tensors.values()))}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2))


def is_written(shape: str, directory: Path) -> bool:
    """Whether `write` has been here with this shape."""
    config = directory / "config.json"
    return (directory / INDEX).exists() and json.loads(config.read_text()) == shapes.SHAPES[shape]


def tensors_of(config: Mapping[str, object]) -> Shapes:
    """What a decoder of this config.json asks its checkpoint for."""
    description, names = describe(dict(config))
    asked = _Asked()
    Builder(description, names, asked, max_model_len=1, device=asked.device, pack=False).build()
    return asked.shapes


class _Asked:
    """Weights without values, that remember what was taken."""

    device = torch.device("meta")

    def __init__(self) -> None:
        self.shapes: Shapes = {}

    def has(self, name: str) -> bool:  # noqa: ARG002 - as other weights have it
        return False

    def take(self, name: str, *shape: int, rows: Sequence[Span] = (), columns: Span | None = None) -> Tensor:  # noqa: ARG002
        """All of it: the only rank of one asks for nothing less."""
        self.shapes[name] = shape
        return torch.empty(shape, dtype=DTYPE, device=self.device)

    def finish(self) -> None:
        """Nothing is left over."""


def in_files(tensors: Shapes, file_bytes: int) -> list[Shapes]:
    """The tensors of each file, in order; a file has one at least."""
    files: list[Shapes] = [{}]
    room = file_bytes
    for name, shape in tensors.items():
        if nbytes(shape) > room and files[-1]:
            files.append({})
            room = file_bytes
        files[-1][name] = shape
        room -= nbytes(shape)
    return files


def nbytes(shape: Sequence[int]) -> int:
    return math.prod(shape) * DTYPE.itemsize


def write_file(path: Path, tensors: Shapes, data: memoryview) -> None:
    """In the format that https://github.com/huggingface/safetensors describes."""
    header, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + nbytes(shape)
        header[name] = {"dtype": NAME, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        fill(file, end, data)


def fill(file: BinaryIO, size: int, data: memoryview) -> None:
    for part in parts(size, len(data)):
        written = 0
        while written < part:  # a raw file may take less than it is given
            written += file.write(data[written:part])


def parts(size: int, most: int) -> Iterator[int]:
    for begin in range(0, size, most):
        yield min(most, size - begin)


def block() -> memoryview:
    """Normal(0, 0.02) as other random weights here, without zeros."""
    values = torch.empty(BLOCK, dtype=DTYPE).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(0))
    values[values == 0] = 0.02
    return memoryview(values.view(torch.uint8).numpy())


if __name__ == "__main__":
    sys.exit(main())
