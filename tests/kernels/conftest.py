"""Random ragged batches over a paged cache, and our kernels: in the emulator on the CPU, and on a GPU."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mii_kernels import _lib, cuda
from mii_kernels.batch import RaggedBatch

from .emulated import build_emulated

BLOCK_SIZE = 64
COMPILE_SECONDS = 1800


@dataclass
class Paged:
    """A batch and the cache that it addresses; tables are shuffled so that nothing lies in order."""

    batch: RaggedBatch
    k_cache: Tensor  # [blocks, kv_heads, BLOCK_SIZE, head_dim]
    v_cache: Tensor
    tables: list[list[int]]

    def context(self, cache: Tensor, sequence: int) -> Tensor:
        """[context, kv_heads, head_dim] of one sequence, gathered token by token."""
        table, length = self.tables[sequence], self.batch.context_lens_host[sequence]
        rows = [cache[table[place // BLOCK_SIZE], :, place % BLOCK_SIZE] for place in range(length)]
        return torch.stack(rows)


@dataclass(frozen=True)
class Kernels:
    """Our kernels on one device; `run.rms_norm(...)` takes what `reference.rms_norm` does."""

    run: Any
    device: torch.device


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a session may have to compile the kernels, on a machine that is busy."""
    for item in items:
        if {"emulated", "kernels"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(COMPILE_SECONDS))


@pytest.fixture(scope="session")
def emulated(pytestconfig: pytest.Config) -> Callable[..., _lib.Library]:
    """Makes the library that runs on the CPU. Skips where g++ is missing."""

    def make() -> _lib.Library:
        compiler = shutil.which("g++")
        if compiler is None:
            pytest.skip("needs g++")
        return _lib.Library(build_emulated(pytestconfig.cache.mkdir("emulator"), compiler))

    return make


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are poisoned: what a kernel leaves out is NaN, or an absurd integer."""
    monkeypatch.setattr(torch, "empty", _poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", _poisoned(torch.empty_like))


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def kernels(request: pytest.FixtureRequest, poisoned: None) -> Kernels:
    if request.param == "emulated":
        return Kernels(cuda.backend(request.getfixturevalue("emulated")()), torch.device("cpu"))
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return Kernels(cuda.backend(_lib.load(0)), torch.device("cuda", 0))


def _poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def empty(*args: Any, **options: Any) -> Tensor:
        out = make(*args, **options)
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).min)

    return empty


@pytest.fixture
def paged() -> Callable[..., Paged]:
    """`sequences`: (tokens in this batch, context length); those with one token and `decodes` come first."""

    def make(
        sequences: Sequence[tuple[int, int]], *, decodes: int, kv_heads: int, head_dim: int, seed: int = 0
    ) -> Paged:
        torch.manual_seed(seed)
        needed = [-(-context // BLOCK_SIZE) for _, context in sequences]
        blocks = random.Random(seed).sample(range(sum(needed) + 3), sum(needed))
        tables = [[blocks.pop() for _ in range(count)] for count in needed]
        wide = torch.zeros(len(sequences), max(needed), dtype=torch.int32)
        for row, table in enumerate(tables):
            wide[row, : len(table)] = torch.tensor(table)
        places = [range(context - length, context) for length, context in sequences]
        slots = [
            table[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE
            for table, ours in zip(tables, places, strict=True)
            for place in ours
        ]
        lengths = torch.tensor([0] + [length for length, _ in sequences])
        batch = RaggedBatch(
            positions=torch.tensor([place for ours in places for place in ours], dtype=torch.int32),
            slot_mapping=torch.tensor(slots, dtype=torch.int32),
            cu_seqlens=lengths.cumsum(0).int(),
            context_lens=torch.tensor([context for _, context in sequences], dtype=torch.int32),
            block_tables=wide,
            query_lens=[length for length, _ in sequences],
            context_lens_host=[context for _, context in sequences],
            num_decodes=decodes,
        )
        shape = (sum(needed) + 3, kv_heads, BLOCK_SIZE, head_dim)
        return Paged(batch, torch.randn(shape), torch.randn(shape), tables)

    return make
