"""`Response`: what mii.pipeline and MIIClient return for a prompt."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

GenerationFinishReason = Literal["stop", "length", "none"]

_REASONS: dict[str, GenerationFinishReason] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True, repr=False)
class Response:
    """One generation, or one streamed piece of it. Lengths are in tokens; a streamed piece counts all so far.

    `finish_reason` is "none" while a streamed generation goes on. `str()` and `repr()` are the text.
    """

    generated_text: str
    prompt_length: int
    generated_length: int
    finish_reason: GenerationFinishReason

    def __str__(self) -> str:
        return self.generated_text

    __repr__ = __str__

    def to_msg_dict(self) -> dict[str, str | int]:
        """The fields by name, as `POST /mii/{deployment}` answers."""
        return asdict(self)

    @classmethod
    def from_msg_dict(cls, message: Mapping[str, Any]) -> "Response":
        """The inverse of to_msg_dict."""
        return cls(**message)


def finish_reason(text: str | None) -> GenerationFinishReason:
    """MII's name of an engine's or a message's finish reason; unfinished is "none"."""
    return _REASONS.get(text or "", "none")
