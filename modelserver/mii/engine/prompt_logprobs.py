"""Log-probabilities of the prompt's own tokens, for requests that score text (echo with logprobs)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mii.engine.crossing import upload
from mii.engine.scheduler import Chunk, ScheduledBatch
from mii.engine.scored_tokens import ScoredTokens
from mii.engine.sequence import Sequence
from mii.models.decoder import Decoder
from mii_kernels import ops

_ROWS = 128  # logits of this many positions at a time: a whole long prompt's would fill the memory


@dataclass(slots=True)
class PromptLogprobs:
    """The tokens at `first`, `first` + 1, … of a sequence's prompt, on their way to the host."""

    sequence: Sequence
    first: int
    tokens: ScoredTokens

    def deliver(self) -> None:
        """Once the step is done. A prompt that is computed again after a preemption brings scores that are
        there already."""
        known = len(self.sequence.prompt_logprobs) - (self.first - 1)
        for _, score in self.tokens.rows()[max(known, 0) :]:
            assert score is not None
            self.sequence.prompt_logprobs.append(score)


def score_chunks(decoder: Decoder, hidden: Tensor, batch: ScheduledBatch) -> list[PromptLogprobs]:
    """hidden [tokens, hidden] of the whole batch. Costs nothing when no request asks."""
    scored: list[PromptLogprobs] = []
    at = len(batch.decodes)
    for chunk in batch.chunks:
        count = chunk.sequence.sampling.prompt_logprobs
        if count is not None and (targets := _targets(chunk)):
            tokens = _score(decoder, hidden[at : at + len(targets)], targets, count)
            scored.append(PromptLogprobs(chunk.sequence, chunk.start + 1, tokens))
        at += chunk.length
    return scored


def _targets(chunk: Chunk) -> list[int]:
    """Position i predicts token i + 1; what follows the prompt is not the prompt's."""
    sequence, end = chunk.sequence, chunk.start + chunk.length + 1
    return sequence.token_ids[chunk.start + 1 : min(end, sequence.num_prompt)]


def _score(decoder: Decoder, hidden: Tensor, targets: list[int], count: int) -> ScoredTokens:
    """hidden [n, hidden] of the positions before the n targets, of which there are some; with the `count`
    likeliest tokens of each."""
    token_ids = upload(targets, torch.int64, hidden.device)
    rows = zip(hidden.split(_ROWS), token_ids.split(_ROWS), strict=True)
    parts = [ops.log_probs(decoder.logits(part), ids, count) for part, ids in rows]
    own, top_ids, top = (torch.cat(column) for column in zip(*parts, strict=True))
    return ScoredTokens(token_ids, own, top_ids, top).start_reading()
