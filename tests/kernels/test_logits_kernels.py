"""Bias, penalties and counts: the reference's results, bit by bit where no order of additions is open."""

import math

import pytest
import torch

from mii_kernels import reference

from .conftest import Kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random_logits(n: int, vocab: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(n, vocab, generator=torch.Generator().manual_seed(vocab)) * 3).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [9, 256, 3000])
def test_add_bias(kernels: Kernels, dtype: torch.dtype, vocab: int) -> None:
    logits = random_logits(4, vocab, dtype)
    rows, ids = torch.tensor([3, 0]), torch.randperm(vocab)[:8].view(2, 4)
    values = torch.tensor([[1.5, -2.0, 0.0, -math.inf], [0.25, 100.0, -100.0, 3.0]])
    given = logits.clone()
    ours = kernels.run.add_bias(*(x.to(kernels.device) for x in (logits, rows, ids, values)))
    assert torch.equal(ours.cpu(), reference.add_bias(logits, rows, ids, values))
    assert torch.equal(logits, given)


def test_an_id_given_twice_gets_both(kernels: Kernels) -> None:
    logits, ids = torch.zeros(1, 600), torch.tensor([[5, 599, 5] + [0] * 500])
    values = torch.tensor([[0.25, 1.0, 0.5] + [0.0] * 500])
    args = (logits, torch.tensor([0]), ids, values)
    ours = kernels.run.add_bias(*(x.to(kernels.device) for x in args)).cpu()
    assert ours.nonzero().tolist() == [[0, 5], [0, 599]]
    assert ours[0, [5, 599]].tolist() == [0.75, 1.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [9, 256, 3000])
def test_penalties(kernels: Kernels, dtype: torch.dtype, vocab: int) -> None:
    rng = torch.Generator().manual_seed(vocab)
    logits = random_logits(5, vocab, dtype)
    counts = torch.randint(-3, 4, (4, vocab), generator=rng, dtype=torch.int32).clamp(min=0)
    in_prompt = torch.rand(4, vocab, generator=rng) < 0.3
    rows, slots = torch.tensor([4, 1, 2]), torch.tensor([0, 3, 1])
    penalties = torch.tensor([[1.3, 1.0, 0.7], [0.5, -0.25, 0.0], [0.1, 0.3, -0.7]])
    args = (logits, rows, slots, counts, in_prompt, *penalties)
    ours = kernels.run.apply_penalties(*(x.to(kernels.device) for x in args))
    assert torch.equal(ours.cpu(), reference.apply_penalties(*args))


def test_rows_apart(kernels: Kernels) -> None:
    wide = random_logits(3, 300, torch.bfloat16).to(kernels.device)
    none = torch.zeros(0, dtype=torch.int64, device=kernels.device)
    for logits in (wide[:, :256], wide[:, 1:258], wide[:, ::3]):
        ours = kernels.run.add_bias(logits, none, none.view(0, 1), torch.zeros(0, 1, device=kernels.device))
        assert torch.equal(ours, logits.float())


@pytest.mark.parametrize("n", [0, 1, 700])
def test_counts(kernels: Kernels, n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    counts = torch.randint(5, (3, 10), generator=rng, dtype=torch.int32).to(kernels.device)
    slots, ids = torch.randint(3, (n,), generator=rng), torch.randint(10, (n,), generator=rng)
    expected = counts.cpu().clone()
    reference.count_tokens(expected, slots, ids)
    kernels.run.count_tokens(counts, slots.to(kernels.device), ids.to(kernels.device))
    assert torch.equal(counts.cpu(), expected)
