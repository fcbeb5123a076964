"""The log-probabilities kernel against log_softmax in float64."""

import math

import pytest
import torch
from torch import Tensor

from mii_kernels import reference

from .conftest import Kernels


def random_logits(n: int, vocab: int, spread: float = 3.0) -> Tensor:
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(vocab)) * spread


def check(kernels: Kernels, logits: Tensor, k: int) -> None:
    """Values are the exact ones, ids have them, and equals come in order of ids."""
    ids = torch.arange(len(logits)) * 7919 % logits.shape[1]
    exact = logits.double().log_softmax(-1)
    ours = kernels.run.log_probs(logits.to(kernels.device), ids.to(kernels.device), k)
    chosen, top_ids, top = (x.cpu() for x in ours)
    assert (chosen.dtype, top_ids.dtype, top.dtype) == (torch.float32, torch.int64, torch.float32)
    close = {"rtol": 1e-6, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(chosen, exact.gather(1, ids[:, None]).squeeze(1), **close)
    torch.testing.assert_close(top, exact.topk(k, dim=-1).values, **close)
    order = logits.float().sort(dim=-1, descending=True, stable=True).indices
    assert torch.equal(top_ids, order[:, :k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [1, 7, 256, 4097, 20_000])
@pytest.mark.parametrize("k", [0, 1, 5, 20, 64])
def test_chosen_and_likeliest(kernels: Kernels, vocab: int, dtype: torch.dtype, k: int) -> None:
    check(kernels, random_logits(4, vocab).to(dtype), min(k, vocab))


def test_more_than_the_kernel_finds(kernels: Kernels) -> None:
    logits = random_logits(3, 500)
    ids = torch.zeros(3, dtype=torch.int64)
    ours = kernels.run.log_probs(logits.to(kernels.device), ids.to(kernels.device), 200)
    for mine, theirs in zip(ours, reference.log_probs(logits, ids, 200), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs)


def test_equal_logits_come_in_order_of_ids(kernels: Kernels) -> None:
    check(kernels, torch.zeros(2, 10_000), 20)  # more than the list holds
    check(kernels, (random_logits(3, 30_000, 0.01)).bfloat16(), 20)


@pytest.mark.parametrize("k", [0, 3])
def test_bad_logits(kernels: Kernels, k: int) -> None:
    logits = random_logits(6, 300)
    logits[0] = math.nan
    logits[1, 10:] = math.nan
    logits[2] = -math.inf
    logits[3, 17] = math.inf
    logits[4, 2:] = -math.inf  # fewer than k
    logits[5, :150] = -math.inf
    ids = torch.tensor([0, 5, 0, 17, 1, 3])
    ours = kernels.run.log_probs(logits.to(kernels.device), ids.to(kernels.device), k)
    chosen, top_ids, top = reference.log_probs(logits, ids, k)
    torch.testing.assert_close(ours[0].cpu(), chosen)
    torch.testing.assert_close(ours[2].cpu(), top)
    apart = top > -1e30  # below an infinite logit all others are alike
    assert torch.equal(ours[1].cpu()[apart], top_ids[apart])


def test_rows_apart_and_no_rows(kernels: Kernels) -> None:
    wide = random_logits(4, 1100).bfloat16()
    for logits in (wide[:, :1000], wide[:, 3:1003], wide[:0]):
        check(kernels, logits, 5)
