"""What benchmarks/kernels.py measures of logits: what is done to them before a draw, and the draw."""

from typing import Any

import torch
from torch import Tensor

from kernel_case import Case, Inputs, Sizes, normal
from mii_kernels import reference

BIASES = 16  # of a row
SEEN_TOKENS = 500  # of a row's prompt, and as many of its output


def logits_cases(sizes: Sizes, dtype: torch.dtype) -> list[Case]:
    rows, vocab = sizes.rows, sizes.vocab
    return [
        _greedy(rows, vocab, dtype),
        _log_probs(rows, vocab, dtype, 0),
        _log_probs(rows, vocab, dtype, 5),
        _sample(rows, vocab, dtype, "no filter", 1, 0, 1.0),
        _sample(rows, vocab, dtype, "top-p 0.9", 1, 0, 0.9),  # three fifths of the vocabulary survive
        _sample(rows, vocab, dtype, "top-p 0.9", 4, 0, 0.9),  # some hundred tokens do, as in a text
        _sample(rows, vocab, dtype, "top-k 50, top-p 0.9", 4, 50, 0.9),
        _bias(rows, vocab, dtype),
        _penalties(rows, vocab, dtype),
        _counts(rows, vocab),
    ]


def _greedy(rows: int, vocab: int, dtype: torch.dtype) -> Case:
    return Case(
        "greedy",
        f"{rows}x{vocab}",
        lambda device: normal(device, dtype, (rows, vocab)),
        lambda ops, logits: ops.greedy(logits),
        lambda logits: reference.greedy(logits),
        rows * vocab * dtype.itemsize,
    )


def _log_probs(rows: int, vocab: int, dtype: torch.dtype, num_top: int) -> Case:
    """Of the token and of the likeliest."""
    return Case(
        "log_probs",
        f"{rows}x{vocab}, {num_top} likeliest",
        lambda device: (normal(device, dtype, (rows, vocab))[0] * 4, torch.arange(rows, device=device)),
        lambda ops, logits, ids: ops.log_probs(logits, ids, num_top)[0],
        lambda logits, ids: logits.double().log_softmax(-1).gather(1, ids[:, None]).squeeze(1),
        rows * vocab * dtype.itemsize,
    )


def _sample(
    rows: int, vocab: int, dtype: torch.dtype, name: str, spread: float, top_k: int, top_p: float
) -> Case:
    """Logits from N(0, spread^2); a top_k of 0 and a top_p of 1 are no filter."""

    def make(device: torch.device) -> Inputs:
        ones, ids = torch.ones(rows, device=device), torch.arange(rows, device=device)
        filters = (ones.int() * top_k if top_k else None, ones * top_p if top_p < 1 else None, None)
        return (normal(device, dtype, (rows, vocab))[0] * spread, ones, *filters, ids, ids)

    return Case(
        "sample",
        f"{rows}x{vocab} of spread {spread:g}, {name}",
        make,
        lambda ops, *inputs: ops.sample(*inputs),
        lambda *inputs: reference.sample(*inputs),
        rows * vocab * dtype.itemsize,
    )


def _bias(rows: int, vocab: int, dtype: torch.dtype) -> Case:
    def make(device: torch.device) -> Inputs:
        ids = torch.randint(vocab, (rows, BIASES), device=device)
        values = torch.randn(rows, BIASES, device=device)
        return *normal(device, dtype, (rows, vocab)), torch.arange(rows, device=device), ids, values

    return Case(
        "add_bias",
        f"{rows}x{vocab}, {BIASES} a row",
        make,
        lambda ops, *inputs: ops.add_bias(*inputs),
        lambda logits, _, ids, values: logits.double().scatter_add_(1, ids, values.double()),
        rows * (vocab * (dtype.itemsize + 4) + BIASES * (8 + 4) + 8),
    )


def _penalties(rows: int, vocab: int, dtype: torch.dtype) -> Case:
    def make(device: torch.device) -> Inputs:
        prompt, output = torch.randint(vocab, (2, rows, SEEN_TOKENS), device=device)
        in_prompt = torch.zeros(rows, vocab, dtype=torch.bool, device=device).scatter_(1, prompt, True)
        counts = torch.zeros(rows, vocab, dtype=torch.int32, device=device)
        counts.scatter_add_(1, output, torch.ones_like(output, dtype=torch.int32))
        numbers = torch.arange(rows, device=device)
        penalties = (torch.full((rows,), value, device=device) for value in (1.1, 0.5, 0.25))
        return *normal(device, dtype, (rows, vocab)), numbers, numbers, counts, in_prompt, *penalties

    def exact(
        logits: Tensor, _: Tensor, __: Tensor, counts: Tensor, in_prompt: Tensor, *penalties: Tensor
    ) -> Tensor:
        repetition, presence, frequency = (x.double()[:, None] for x in penalties)
        x, written = logits.double(), counts > 0
        x = torch.where(in_prompt | written, torch.where(x > 0, x / repetition, x * repetition), x)
        return x - frequency * counts - presence * written

    moved = rows * (vocab * (dtype.itemsize + 4 + 4 + 1) + 2 * 8 + 3 * 4)
    shape = f"{rows}x{vocab}, {2 * SEEN_TOKENS} seen"
    return Case(
        "apply_penalties", shape, make, lambda ops, *inputs: ops.apply_penalties(*inputs), exact, moved
    )


def _counts(rows: int, vocab: int) -> Case:
    """A row's token is the row's number, so that the diagonal is what has been counted."""

    def make(device: torch.device) -> Inputs:
        numbers = torch.arange(rows, device=device)
        return torch.zeros(rows, vocab, dtype=torch.int32, device=device), numbers, numbers

    def run(ops: Any, counts: Tensor, slots: Tensor, ids: Tensor) -> Tensor:
        ops.count_tokens(counts, slots, ids)
        return counts.diagonal()

    moved = rows * (2 * 4 + 2 * 8)
    return Case("count_tokens", f"{rows}x{vocab}", make, run, lambda counts, *_: counts.diagonal() + 1, moved)
