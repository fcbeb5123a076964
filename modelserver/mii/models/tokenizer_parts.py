"""What a tokenizer is made of, wherever it was read from."""

from dataclasses import dataclass, field

import tokenizers


@dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    source: str  # for messages: the file or directory it came from
    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str] = field(default_factory=dict)  # "bos_token": "<s>"
    eos_token_ids: tuple[int, ...] = ()
    chat_templates: dict[str, str] = field(default_factory=dict)  # Jinja sources by name


def bos_eos_processor(
    backend: tokenizers.Tokenizer, *, bos: str | None, eos: str | None
) -> tokenizers.processors.TemplateProcessing:
    """Puts `bos` before and `eos` after every text that is encoded with special tokens.

    A token that the vocabulary lacks is left out.
    """
    ids = {token: backend.token_to_id(token) for token in (bos, eos) if token}
    special = [(token, token_id) for token, token_id in ids.items() if token_id is not None]
    pieces = [piece for piece in (bos, "$A", eos) if piece == "$A" or ids.get(piece or "") is not None]
    return tokenizers.processors.TemplateProcessing(
        single=pieces, pair=[*pieces, "$B"], special_tokens=special
    )
