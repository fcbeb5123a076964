"""Tokens and their log-probabilities: on the device, on their way to the host, and there."""

from dataclasses import dataclass

from torch import Tensor

from mii.core import TokenLogprob
from mii.engine.crossing import start_reading


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """n tokens and, of each, the k likeliest in its place."""

    token_ids: Tensor  # [n] int64
    logprobs: Tensor | None  # [n] float32; None, as the other two, if nobody wants them
    top_ids: Tensor | None  # [n, k] int64, best first
    top_logprobs: Tensor | None  # [n, k] float32

    def start_reading(self) -> "ScoredTokens":
        """The same on the host, once the device is done (see crossing.py)."""
        parts = self.token_ids, self.logprobs, self.top_ids, self.top_logprobs
        token_ids, *scores = (None if part is None else start_reading(part) for part in parts)
        assert token_ids is not None
        return ScoredTokens(token_ids, *scores)

    def rows(self) -> list[tuple[int, TokenLogprob | None]]:
        """Of tensors that have arrived on the host."""
        token_ids = self.token_ids.tolist()
        if self.logprobs is None or self.top_ids is None or self.top_logprobs is None:
            return [(token, None) for token in token_ids]
        scores = (it.tolist() for it in (self.logprobs, self.top_ids, self.top_logprobs))
        return [
            (token, TokenLogprob(token, own, list(zip(ids, values, strict=True))))
            for token, own, ids, values in zip(token_ids, *scores, strict=True)
        ]
