"""From logits to tokens, on the device: bias, min_tokens, penalties, temperature and filters, one draw.

    logits ─bias─> ─penalties─> ─sample─> token ids ─count─> state of the rows that have penalties
       └log_probs(token ids)─> log-probabilities of the model's own distribution

A row's token depends on its logits, its parameters, its seed and its position alone; docs of
`mii_kernels.reference.sampling` define it. Nothing here waits for the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mii.core import SamplingParams
from mii.engine.sampler_state import Biases, TokenCounts
from mii.engine.sampling_table import Column, SamplingPlan, has_penalties
from mii.engine.scored_tokens import ScoredTokens
from mii_kernels import ops


class Sampler:
    def __init__(self, vocab_size: int, max_rows: int, device: torch.device) -> None:
        self._counts = TokenCounts(vocab_size, max_rows, device)
        self._biases = Biases(vocab_size, max_rows, device)

    def open(
        self, row: int, params: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int
    ) -> None:
        """A sequence enters `row`, for the first time or after a preemption.

        token_ids: its prompt and whatever it has produced so far, none still on the device only.
        Raises InvalidRequest for a logit_bias outside the vocabulary.
        """
        self.close(row)
        self._biases.open(row, params, num_prompt_tokens)
        if has_penalties(params):
            self._counts.open(row, token_ids, num_prompt_tokens)

    def close(self, row: int) -> None:
        """The sequence left `row`: its memory may serve another. Opening the row again does the same."""
        self._counts.close(row)

    def __call__(self, logits: Tensor, packed: Tensor, plan: SamplingPlan) -> ScoredTokens:
        """logits [n, vocab] float32 or lower, not changed; packed [n, WIDTH] int32 on the same device and
        plan: both of one SamplingTable, rows and positions."""
        columns = packed.t().contiguous()  # [WIDTH, n]
        scores = self._penalised(self._biased(logits, columns, plan), columns, plan)
        token_ids = ops.greedy(scores) if plan.greedy else _sample(scores, columns, plan)
        self._count(token_ids, columns, plan)
        return _with_logprobs(token_ids, logits, plan)

    def _biased(self, logits: Tensor, columns: Tensor, plan: SamplingPlan) -> Tensor:
        if not plan.biased:
            return logits
        members = columns[Column.BIASED, : plan.biased].long()
        rows, positions = columns[Column.ROW, members].long(), columns[Column.POSITION, members].long()
        return ops.add_bias(logits, members, *self._biases.at(rows, positions))

    def _penalised(self, logits: Tensor, columns: Tensor, plan: SamplingPlan) -> Tensor:
        if not plan.penalised:
            return logits
        members, slots = self._penalised_rows(columns, plan)
        penalties = columns[Column.REPETITION : Column.FREQUENCY + 1, members].view(torch.float32)
        return ops.apply_penalties(
            logits, members, slots, self._counts.counts, self._counts.in_prompt, *penalties
        )

    def _count(self, token_ids: Tensor, columns: Tensor, plan: SamplingPlan) -> None:
        if plan.penalised:
            members, slots = self._penalised_rows(columns, plan)
            ops.count_tokens(self._counts.counts, slots, token_ids[members])

    def _penalised_rows(self, columns: Tensor, plan: SamplingPlan) -> tuple[Tensor, Tensor]:
        members = columns[Column.PENALISED, : plan.penalised].long()
        return members, self._counts.slots(columns[Column.ROW, members].long())


def _sample(scores: Tensor, columns: Tensor, plan: SamplingPlan) -> Tensor:
    floats = columns.view(torch.float32)
    low, high = columns[Column.SEED_LOW].long(), columns[Column.SEED_HIGH].long()
    return ops.sample(
        scores,
        floats[Column.TEMPERATURE],
        columns[Column.TOP_K] if plan.top_k else None,
        floats[Column.TOP_P] if plan.top_p else None,
        floats[Column.MIN_P] if plan.min_p else None,
        (high << 32) | (low & 0xFFFFFFFF),
        columns[Column.POSITION],
    )


def _with_logprobs(token_ids: Tensor, logits: Tensor, plan: SamplingPlan) -> ScoredTokens:
    if plan.logprobs is None:
        return ScoredTokens(token_ids, None, None, None)
    return ScoredTokens(token_ids, *ops.log_probs(logits, token_ids, plan.logprobs))
