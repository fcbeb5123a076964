"""Log-probabilities of the prompt's own tokens, for requests that score text (echo with logprobs)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mii.core import TokenLogprob
from mii.engine.scheduler import Chunk, ScheduledBatch
from mii.engine.sequence import Sequence
from mii.models.decoder import Decoder

_ROWS = 128  # logits of this many positions at a time: a whole long prompt's would fill the memory


@dataclass(slots=True)
class PromptLogprobs:
    """Scores of the tokens at `first`, `first` + 1, … of a sequence's prompt."""

    sequence: Sequence
    first: int
    scores: list[TokenLogprob]

    def deliver(self) -> None:
        """A prompt that is computed again after a preemption brings scores that are there already."""
        known = len(self.sequence.prompt_logprobs) - (self.first - 1)
        self.sequence.prompt_logprobs += self.scores[max(known, 0) :]


def score_chunks(decoder: Decoder, hidden: Tensor, batch: ScheduledBatch) -> list[PromptLogprobs]:
    """hidden [tokens, hidden] of the whole batch. Costs nothing when no request asks."""
    scored: list[PromptLogprobs] = []
    at = len(batch.decodes)
    for chunk in batch.chunks:
        if chunk.sequence.sampling.prompt_logprobs is not None:
            scored.append(_score(decoder, hidden[at : at + chunk.length], chunk))
        at += chunk.length
    return scored


def _score(decoder: Decoder, hidden: Tensor, chunk: Chunk) -> PromptLogprobs:
    """Position i predicts token i + 1; what follows the prompt is not the prompt's."""
    sequence, first = chunk.sequence, chunk.start + 1
    targets = sequence.token_ids[first : min(chunk.start + chunk.length + 1, sequence.num_prompt)]
    count = sequence.sampling.prompt_logprobs or 0
    scores: list[TokenLogprob] = []
    for start in range(0, len(targets), _ROWS):
        part = targets[start : start + _ROWS]
        scores += _score_rows(decoder.logits(hidden[start : start + len(part)]), part, count)
    return PromptLogprobs(sequence, first, scores)


def _score_rows(logits: Tensor, targets: list[int], count: int) -> list[TokenLogprob]:
    """logits [n, vocab] -> the log-probability of each target and of the `count` likeliest tokens."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    own = logprobs.gather(1, torch.tensor(targets, device=logits.device)[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(count, dim=-1)
    tops = [list(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
    return [TokenLogprob(*row) for row in zip(targets, own, tops, strict=True)]
