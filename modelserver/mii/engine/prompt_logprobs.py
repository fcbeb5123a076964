"""Log-probabilities of the prompt's own tokens, for requests that score text (echo with logprobs)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mii.engine.crossing import upload
from mii.engine.sampled import Sampled
from mii.engine.scheduler import Chunk, ScheduledBatch
from mii.engine.sequence import Sequence
from mii.models.decoder import Decoder
from mii_kernels import ops

_ROWS = 128  # logits of this many positions at a time: a whole long prompt's would fill the memory


@dataclass(slots=True)
class PromptLogprobs:
    """Scores of the tokens at `first`, `first` + 1, … of a sequence's prompt, on their way to the host."""

    sequence: Sequence
    first: int
    parts: list[Sampled]

    def deliver(self) -> None:
        """Once the step is done. A prompt that is computed again after a preemption brings scores that are
        there already."""
        known = len(self.sequence.prompt_logprobs) - (self.first - 1)
        scores = [score for part in self.parts for _, score in part.rows() if score is not None]
        self.sequence.prompt_logprobs += scores[max(known, 0) :]


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
    following = sequence.token_ids[first : min(chunk.start + chunk.length + 1, sequence.num_prompt)]
    targets = upload(following, torch.int64, hidden.device)
    count = sequence.sampling.prompt_logprobs or 0
    parts = []
    for start in range(0, len(following), _ROWS):
        ids = targets[start : start + _ROWS]
        logits = decoder.logits(hidden[start : start + len(ids)])
        parts.append(Sampled(ids, *ops.log_probs(logits, ids, count)).start_reading())
    return PromptLogprobs(sequence, first, parts)
