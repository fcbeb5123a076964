"""Token ids to text while they come, for one request.

    ids ─ token_bytes ─> bytes ─ incremental UTF-8 ─> text ─ stop strings ─> pieces

Every stage keeps only what it cannot decide yet: the start of a character, the start of a stop string.
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mii.core import EngineRequest, GenerateParams
from mii.engine.stop_strings import StopStrings
from mii.errors import InvalidRequest
from mii.models.tokenizer import Tokenizer

_LONGEST_CHARACTER = 4  # bytes in UTF-8
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Piece(NamedTuple):
    text: str  # final: it will not be taken back
    stop: str | None  # the stop string that ended the text


class Detokenizer:
    """The joined pieces and flush() are what the output tokens add to the decoded prompt, up to the stop."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        *,
        stop: Sequence[str] = (),
        include_stop_str: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> None:
        """Stop strings are looked for in the text of the tokens after the first `min_tokens`.

        Raises InvalidRequest for an empty stop string.
        """
        if "" in stop:
            raise InvalidRequest("a stop string must not be empty", param="stop")
        self._stop_strings = StopStrings(stop, include=include_stop_str) if stop else None
        self._unsearched = min_tokens  # tokens still to come whose text is not searched
        self._text = _TextStream(tokenizer, prompt_token_ids, skip_special_tokens=skip_special_tokens)
        self._stopped: str | None = None

    @classmethod
    def of(cls, request: EngineRequest, params: GenerateParams, tokenizer: Tokenizer) -> "Detokenizer":
        return cls(
            tokenizer,
            request.prompt_token_ids,
            stop=params.stop,
            include_stop_str=params.include_stop_str,
            skip_special_tokens=params.skip_special_tokens,
            min_tokens=request.sampling.min_tokens,
        )

    def push(self, token_ids: Sequence[int]) -> Piece:
        """The text that is certain now. Tokens after a stop add nothing."""
        if self._stop_strings is None:
            return Piece(self._text.push(token_ids), None)
        if self._stopped is not None:
            return Piece("", self._stopped)
        return self._search(self._stop_strings, token_ids)

    def flush(self) -> str:
        """What was held back. An unfinished character becomes U+FFFD, in which no stop is looked for."""
        if self._stopped is not None:
            return ""
        held = self._stop_strings.flush() if self._stop_strings else ""
        return held + self._text.flush()

    def _search(self, stop_strings: StopStrings, token_ids: Sequence[int]) -> Piece:
        unsearched = ""
        if self._unsearched > 0:
            unsearched = self._text.push(token_ids[: self._unsearched])
            self._unsearched, token_ids = self._unsearched - len(token_ids), token_ids[self._unsearched :]
        text, self._stopped = stop_strings.feed(self._text.push(token_ids))
        return Piece(unsearched + text, self._stopped)


class _TextStream:
    """Token ids to text, never a part of a character."""

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], *, skip_special_tokens: bool
    ) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop = ""  # not to go out at the very start
        self._continue(self._tail(prompt_token_ids), drops_first_space=tokenizer.drops_first_space)

    def push(self, token_ids: Iterable[int]) -> str:
        bytes_of, skipped = self._bytes_of, self._skipped
        return self._started(
            self._utf8.decode(b"".join([bytes_of(i) for i in token_ids if i not in skipped]))
        )

    def flush(self) -> str:
        return self._started(self._utf8.decode(b"", final=True))

    def _tail(self, prompt_token_ids: Sequence[int]) -> bytes:
        """The end of the prompt, long enough for any character in it that is unfinished."""
        tail = b""
        for token_id in reversed(prompt_token_ids):
            if len(tail) >= _LONGEST_CHARACTER:
                break
            if token_id not in self._skipped:
                tail = self._bytes_of(token_id) + tail
        return tail

    def _continue(self, prompt: bytes, *, drops_first_space: bool) -> None:
        """After a prompt, a leading space is a space between words; its unfinished character may be
        finished here, but if it is not, its U+FFFD is the prompt's."""
        self._utf8.decode(prompt)
        if self._utf8.getstate()[0]:
            self._drop = _REPLACEMENT
        elif not prompt and drops_first_space:
            self._drop = " "

    def _started(self, text: str) -> str:
        if text and self._drop:
            text, self._drop = text.removeprefix(self._drop), ""
        return text
