"""Text to token ids and back, for one model.

directory: tokenizer.json + tokenizer_config.json ─ tokenizer_files ─┐
.gguf file: tokenizer.* metadata ──────────────── gguf_tokenizer ────┴─> TokenizerParts ─> Tokenizer
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mii.errors import UnsupportedModel
from mii.models.chat_messages import Message
from mii.models.chat_template import ChatTemplates
from mii.models.gguf_tokenizer import read_gguf_tokenizer
from mii.models.snapshot import Snapshot
from mii.models.token_bytes import Spelling, spelling_of
from mii.models.tokenizer_files import read_tokenizer_files
from mii.models.tokenizer_parts import TokenizerParts

_NONE: frozenset[int] = frozenset()


def load_tokenizer(snapshot: Snapshot, *, eos_token_ids: Iterable[int] = ()) -> "Tokenizer":
    """With `eos_token_ids` beside those that its own files name.

    Raises ModelLoadError, naming the file, if it is missing, unreadable or of an unknown kind.
    """
    gguf = snapshot.gguf
    parts = read_tokenizer_files(snapshot.directory) if gguf is None else read_gguf_tokenizer(gguf)
    ends = dict.fromkeys((*parts.eos_token_ids, *eos_token_ids))
    return Tokenizer(replace(parts, eos_token_ids=tuple(ends)))


class Tokenizer:
    """Immutable once made: every method may be called from any thread."""

    def __init__(self, parts: TokenizerParts) -> None:
        """Raises UnsupportedModel if the bytes behind the tokens cannot be told from the decoder."""
        self._backend = parts.backend
        self._spelling = _spelling(parts)
        self._bytes: dict[int, bytes] = {}  # what token_bytes has found so far
        self._chat = ChatTemplates(parts.chat_templates, parts.special_tokens)
        self.vocab_size = max(parts.backend.get_vocab().values(), default=-1) + 1
        self.eos_token_ids = parts.eos_token_ids  # every id that ends a generation
        self.bos_token_id = _id_of(parts, "bos_token")
        self.special_ids = _special_ids(parts)

    @property
    def chat_template(self) -> str | None:
        """The Jinja source for plain chats, or None."""
        return self._chat.default

    @property
    def drops_first_space(self) -> bool:
        """Whether text decoded from its start loses one leading space (SentencePiece's dummy prefix)."""
        return self._spelling.drops_first_space

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens written out in it become their ids.

        Lets other threads run meanwhile, which the backend does only when given a batch.
        """
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`. Bytes that are not UTF-8 become U+FFFD, ids that are no token nothing."""
        skipped = self.special_ids if skip_special_tokens else _NONE
        data = b"".join([self.token_bytes(i) for i in ids if i not in skipped])
        text = data.decode(errors="replace")
        return text.removeprefix(" ") if self.drops_first_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that the token adds to the text; a special token's are its name's."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._spelling.bytes_of(self._backend.id_to_token(token_id) or "")
            self._bytes[token_id] = found
        return found

    def token_text(self, token_id: int) -> str:
        """The token's bytes as text, with its leading space; U+FFFD where it is only part of a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        extra: dict[str, Any] | None = None,
    ) -> str:
        """The prompt for OpenAI-style `messages`; encode it with add_special_tokens=False.

        `extra` are further template variables. Raises InvalidRequest, naming the field, if there is no
        template, or it refuses the messages, or they hold anything but text.
        """
        return self._chat.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, extra=extra or {}
        )


def _spelling(parts: TokenizerParts) -> Spelling:
    decoder = parts.backend.decoder
    try:
        return spelling_of(None if decoder is None else json.loads(decoder.__getstate__()))
    except ValueError as error:
        raise UnsupportedModel(f"{parts.source}: tokenizer not supported: {error}") from error


def _id_of(parts: TokenizerParts, role: str) -> int | None:
    token = parts.special_tokens.get(role)
    return None if token is None else parts.backend.token_to_id(token)


def _special_ids(parts: TokenizerParts) -> frozenset[int]:
    flagged = {i for i, token in parts.backend.get_added_tokens_decoder().items() if token.special}
    named = {_id_of(parts, role) for role in parts.special_tokens}
    return frozenset(flagged | {i for i in named if i is not None})
