"""The sampling kernels wherever a filter's limit may be: near the best token or far, in the list or not."""

import math

import pytest
import torch

from .conftest import Kernels
from .test_sampling_kernels import both, random_logits


@pytest.mark.parametrize(
    "filters", [{}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.9}, {"min_p": 0.02}], ids=str
)
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0, 30.0])
def test_every_spread(kernels: Kernels, spread: float, filters: dict[str, float]) -> None:
    ours, theirs = both(kernels, random_logits(3, 33_001, spread), **filters)
    assert ours == theirs


@pytest.mark.parametrize(
    "filters",
    [
        *({"top_p": p} for p in (0.5, 0.99, 0.9999, 1 - 1e-7)),
        *({"top_k": k} for k in (4, 5, 64, 65, 512, 513, 9_000)),
        {"top_k": 9_000, "top_p": 0.9},
        {"top_k": 40, "min_p": 0.2},
        {"top_p": 0.9, "min_p": 0.2},
        {"top_p": 0.2, "min_p": 1e-6},
        {"min_p": 1e-9},
    ],
    ids=str,
)
def test_limits_anywhere(kernels: Kernels, filters: dict[str, float]) -> None:
    ours, theirs = both(kernels, random_logits(3, 10_000, 3.0).half(), **filters)
    assert ours == theirs


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_where_the_best_tokens_are_does_not_matter(kernels: Kernels, filters: dict[str, float]) -> None:
    """The first tiles of a row tell what to expect of the others: here they are wrong."""
    logits = random_logits(6, 20_480, 1.0)
    logits[0, 1_500:] += 12  # better and better
    logits[1] += torch.arange(20_480) / 500
    logits[2] -= torch.arange(20_480) / 500
    logits[3] = -math.inf
    logits[3, 20_000] = 3.0  # one token
    logits[4, :20_000] = -math.inf
    logits[5, 19_999] = 300.0
    ours, theirs = both(kernels, logits, **filters)
    assert ours == theirs
    assert ours[3] == 20_000


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 20}], ids=str)
def test_a_vocabulary_of_256_000(kernels: Kernels, filters: dict[str, float]) -> None:
    ours, theirs = both(kernels, random_logits(1, 256_000, 4.0).bfloat16(), **filters)
    assert ours == theirs


def test_few_tokens_above_minus_infinity(kernels: Kernels) -> None:
    """Fewer than top-k asks for."""
    logits = torch.full((8, 3000), -math.inf)
    logits[:, [5, 700, 2999]] = torch.tensor([1.0, 0.0, 0.5])
    for filters in ({"top_k": 10}, {"top_k": 10, "top_p": 0.7}, {"top_k": 2}, {"top_k": 3, "min_p": 0.5}):
        ours, theirs = both(kernels, logits, **filters)
        assert ours == theirs
