"""Log-probabilities as OpenAI's two APIs show them. Pure."""

import codecs
from collections.abc import Sequence

from mii.core import TokenLogprob
from mii.server.backend import Tokenizer
from mii.server.openai.replies import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob


def chat_logprobs(entries: Sequence[TokenLogprob], tokenizer: Tokenizer, top: int) -> ChatLogprobs:
    """With the `top` best alternatives of each token."""
    content = []
    for entry in entries:
        rivals = [_top(token, logprob, tokenizer) for token, logprob in entry.top[:top]]
        chosen = _top(entry.token_id, entry.logprob, tokenizer)
        content.append(ChatLogprob(chosen.token, chosen.logprob, chosen.bytes, rivals))
    return ChatLogprobs(content)


def _top(token_id: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    raw = tokenizer.token_bytes(token_id)
    return TopLogprob(raw.decode("utf-8", "replace"), _finite(logprob), list(raw))


class CompletionLogprobsBuilder:
    """Builds the lists of one choice, chunk by chunk, keeping track of where its text has got to."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0  # characters

    def prompt(self, token_ids: Sequence[int], entries: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """Of an echoed prompt; `entries` are of its tokens from the second on."""
        lists = no_logprobs()
        self._append(lists, token_ids[0], None, None)
        return self.extend(lists, entries)

    def extend(self, lists: CompletionLogprobs, entries: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """`lists` with `entries` added; they must come in the text's order."""
        for entry in entries:
            self._append(lists, entry.token_id, _finite(entry.logprob), self._rivals(entry))
        return lists

    def _append(
        self, lists: CompletionLogprobs, token_id: int, logprob: float | None, rivals: dict[str, float] | None
    ) -> None:
        lists.tokens.append(self._name(token_id))
        lists.token_logprobs.append(logprob)
        lists.top_logprobs.append(rivals)
        lists.text_offset.append(self._offset)
        if token_id not in self._hidden:
            self._offset += len(self._utf8.decode(self._tokenizer.token_bytes(token_id)))

    def _rivals(self, entry: TokenLogprob) -> dict[str, float]:
        """The best alternatives and the token itself, by name, best first."""
        named = {self._name(token_id): _finite(logprob) for token_id, logprob in reversed(entry.top)}
        named.setdefault(self._name(entry.token_id), _finite(entry.logprob))
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def _name(self, token_id: int) -> str:
        """The token's text, or OpenAI's notation for bytes that are none."""
        raw = self._tokenizer.token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def no_logprobs() -> CompletionLogprobs:
    return CompletionLogprobs([], [], [], [])


def _finite(logprob: float) -> float:
    """JSON has no -inf; OpenAI shows what is impossible as this."""
    return max(logprob, -9999.0)
