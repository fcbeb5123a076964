"""The sampling kernels draw the reference's tokens, whatever the rows are like."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mii_kernels import reference

from .conftest import Kernels

FILTERS: list[dict[str, float]] = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 100_000},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"top_p": 1e-6},
    {"top_p": 0.0},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 12, "top_p": 0.8},
    {"top_k": 300, "top_p": 0.95, "min_p": 0.001},
]
DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "min_p": torch.float32,
}


def parameters(n: int, device: torch.device, **given: Any) -> list[Tensor | None]:
    """temperature and filters as columns, None if absent; an option is a number for all rows or a list."""
    columns: list[Tensor | None] = []
    for name, dtype in DTYPES.items():
        value = given.get(name, DEFAULTS[name] if name == "temperature" else None)
        values = value if isinstance(value, list) else [value] * n
        columns.append(None if value is None else torch.tensor(values, dtype=dtype, device=device))
    return columns


def both(kernels: Kernels, logits: Tensor, **given: Any) -> tuple[list[int], list[int]]:
    """Tokens of the kernel and of the reference, which runs on the CPU."""
    n = len(logits)
    seeds, positions = torch.arange(n) * 7919 - 3, torch.arange(n) * 3
    ours = kernels.run.sample(
        logits.to(kernels.device),
        *parameters(n, kernels.device, **given),
        *(x.to(kernels.device) for x in (seeds, positions)),
    )
    assert ours.dtype == torch.int64
    theirs = reference.sample(logits, *parameters(n, torch.device("cpu"), **given), seeds, positions)
    return ours.tolist(), theirs.tolist()


def random_logits(n: int, vocab: int, spread: float = 2.0, seed: int = 0) -> Tensor:
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed + vocab)) * spread


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("vocab", [40, 2055])
def test_each_filter(kernels: Kernels, filters: dict[str, float], temperature: float, vocab: int) -> None:
    ours, theirs = both(kernels, random_logits(12, vocab), temperature=temperature, **filters)
    assert ours == theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [1, 3, 255, 256, 257, 5000, 20_000])
def test_every_row_has_its_own_parameters(kernels: Kernels, vocab: int, dtype: torch.dtype) -> None:
    n = 10
    rng = torch.Generator().manual_seed(vocab)

    def choice(values: list[float]) -> list[float]:
        return [values[i] for i in torch.randint(len(values), (n,), generator=rng).tolist()]

    spread = torch.tensor(choice([0.1, 1, 4]))[:, None]
    ours, theirs = both(
        kernels,
        (random_logits(n, vocab, 1.0) * spread).to(dtype),
        temperature=choice([0.0, 0.5, 1.0, 1.5]),
        top_k=[int(k) for k in choice([0, 1, 5, 300])],
        top_p=choice([0.5, 0.9, 0.99, 1.0]),
        min_p=choice([0.0, 0.01, 0.3]),
    )
    assert ours == theirs


@pytest.mark.parametrize("filters", [{"top_p": 0.9}, {"top_k": 40}, {"top_k": 9000, "top_p": 0.9}], ids=str)
def test_flat_rows_of_a_large_vocabulary(kernels: Kernels, filters: dict[str, float]) -> None:
    """So alike that thousands of tokens are at the limit, more than the list holds."""
    ours, theirs = both(kernels, random_logits(3, 40_000, 1e-3), **filters)
    assert ours == theirs


def test_ties_at_the_limit_all_survive(kernels: Kernels) -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0]).expand(200, -1)
    for filters in ({"top_k": 2}, {"top_p": 0.6}):
        ours, theirs = both(kernels, logits, **filters)
        assert ours == theirs
        assert set(ours) == {1, 2, 3, 4}


@pytest.mark.parametrize("vocab", [1, 6, 260, 10_000])
def test_equal_logits_keep_all(kernels: Kernels, vocab: int) -> None:
    ours, theirs = both(kernels, torch.zeros(20, vocab), top_p=0.5, top_k=3)
    assert ours == theirs


def test_a_limit_in_the_far_tail(kernels: Kernels) -> None:
    """Below the bins: the k-th token is thousands of times less likely than float32 tells from nothing."""
    logits = -torch.arange(600.0)[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    for filters in ({"top_k": 50}, {"top_k": 200}, {"top_k": 200, "top_p": 1 - 1e-7}):
        ours, theirs = both(kernels, logits.expand(8, -1), **filters)
        assert ours == theirs


def test_greedy_takes_the_lowest_id_of_equals(kernels: Kernels) -> None:
    logits = torch.zeros(6, 1000)
    logits[0, [700, 300, 999]] = 1
    logits[1] = -math.inf
    logits[2] = 5
    logits[3, 999] = 0.5
    logits[4, :500] = -0.0
    logits[5] = -1 - torch.arange(1000.0)
    expected = [300, 0, 0, 999, 0, 0]
    assert kernels.run.greedy(logits.to(kernels.device)).tolist() == expected
    assert both(kernels, logits, temperature=0.0) == (expected, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [1, 7, 256, 4097, 20_000])
def test_greedy(kernels: Kernels, dtype: torch.dtype, vocab: int) -> None:
    logits = random_logits(5, vocab).to(dtype)
    assert kernels.run.greedy(logits.to(kernels.device)).tolist() == reference.greedy(logits).tolist()


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 20, "min_p": 0.1}], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_logits(kernels: Kernels, temperature: float, filters: dict[str, float]) -> None:
    logits = random_logits(7, 300)
    logits[0] = math.nan
    logits[1, 10:] = math.nan
    logits[2] = -math.inf
    logits[3, 17] = math.inf
    logits[4, [17, 30]] = math.inf
    logits[5, 5:] = -math.inf
    ours, theirs = both(kernels, logits, temperature=temperature, **filters)
    assert ours == theirs


def test_extreme_temperatures(kernels: Kernels) -> None:
    logits = random_logits(20, 300)
    for temperature in (1e-30, 1e30):
        for filters in ({}, {"top_p": 0.5}, {"top_k": 5}):
            ours, theirs = both(kernels, logits, temperature=temperature, **filters)
            assert ours == theirs


def test_rows_apart_and_of_odd_alignment(kernels: Kernels) -> None:
    wide = random_logits(4, 1100).bfloat16().to(kernels.device)
    for logits in (wide[:, :1000], wide[:, 3:1003], wide[::2, ::2]):
        assert kernels.run.greedy(logits).tolist() == reference.greedy(logits.cpu()).tolist()
        ours, theirs = both(kernels, logits.cpu(), top_p=0.9)
        assert ours == theirs


def test_logits_are_left_alone_and_no_rows_are_none(kernels: Kernels) -> None:
    logits = random_logits(2, 256)
    before = logits.clone()
    both(kernels, logits, top_k=3, top_p=0.5, min_p=0.1)
    assert torch.equal(logits, before)
    assert both(kernels, logits[:0], top_p=0.5) == ([], [])
    assert kernels.run.greedy(logits[:0].to(kernels.device)).tolist() == []


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_the_vocabulary_of_llama_3(kernels: Kernels, spread: float) -> None:
    logits = random_logits(2, 128_256, spread).bfloat16()
    ours, theirs = both(kernels, logits, top_p=[0.9, 0.5], top_k=[0, 50], temperature=[1.0, 0.8])
    assert ours == theirs
