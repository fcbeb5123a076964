"""The tokenizer that a GGUF file's metadata describes, rebuilt with the tokenizers library.

Key names and token types are llama.cpp's (gguf-py/gguf/constants.py). Metadata say which merges and which
pre-tokenizer, by name; how that pre-tokenizer splits is the original model's, in gguf_pretokenizers.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from mii.errors import ModelLoadError, UnsupportedModel
from mii.models.chat_template import DEFAULT
from mii.models.gguf_file import open_gguf
from mii.models.gguf_pretokenizers import pre_tokenizer
from mii.models.tokenizer_parts import TokenizerParts, bos_eos_processor

Metadata = Mapping[str, Any]

_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_ENDS = ("eos", "eot", "eom")  # of the text, of a turn, of a message


class TokenType(IntEnum):
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4


def read_gguf_tokenizer(path: Path) -> TokenizerParts:
    """Raises ModelLoadError or UnsupportedModel, naming the file and the metadata key."""
    return gguf_tokenizer(open_gguf(path).metadata, str(path))


def gguf_tokenizer(metadata: Metadata, source: str) -> TokenizerParts:
    """`metadata` as the gguf library reads them: "tokenizer.ggml.tokens" to a list of str, and so on."""
    backend = _build(metadata, source)
    _add_whole_tokens(backend, metadata)
    special = {role: token for name, role in _ROLES.items() if (token := _token(metadata, name))}
    _add_bos_eos(backend, metadata, special)
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS]
    return TokenizerParts(
        source=source,
        backend=backend,
        special_tokens=special,
        eos_token_ids=tuple(dict.fromkeys(i for i in ends if i is not None)),
        chat_templates=_chat_templates(metadata),
    )


def _build(metadata: Metadata, source: str) -> tokenizers.Tokenizer:
    builders: dict[str, Callable[[Metadata, str], tokenizers.Tokenizer]] = {
        "gpt2": _byte_level,
        "llama": _sentencepiece,
    }
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in builders:
        known = ", ".join(map(repr, builders))
        raise UnsupportedModel(
            f"{source}: tokenizer.ggml.model {kind!r} is not supported (supported: {known})"
        )
    return builders[kind](metadata, source)


def _byte_level(metadata: Metadata, source: str) -> tokenizers.Tokenizer:
    split = pre_tokenizer(metadata.get("tokenizer.ggml.pre", "default"), source)
    merges = [tuple(merge.split(" ", 1)) for merge in _need(metadata, "merges", source)]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=_vocabulary(metadata, source), merges=merges, ignore_merges=split.ignore_merges)
    )
    if split.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = split.build()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(metadata: Metadata, source: str) -> tokenizers.Tokenizer:
    """SentencePiece's BPE: merges follow from the scores, bytes are the fallback.

    The space before the text is put there by the normalizer, thus again after every special token, as
    SentencePiece's users (Llama 2, Mistral) were trained and as llama.cpp does. transformers' own reading of
    a GGUF does so only at the very start.
    """
    vocabulary = _vocabulary(metadata, source)
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges_by_score(vocabulary, _need(metadata, "scores", source)),
            unk_token=_token(metadata, "unknown"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    adds_space = metadata.get("tokenizer.ggml.add_space_prefix", True)
    prefix = [normalizers.Prepend("▁")] if adds_space else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if adds_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def _merges_by_score(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, the best token first."""
    ranked = [
        ((scores[token_id], len(token[:cut]), len(token[cut:])), (token[:cut], token[cut:]))
        for token, token_id in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    ranked.sort(key=lambda entry: entry[0], reverse=True)
    return [pair for _, pair in ranked]


def _add_whole_tokens(backend: tokenizers.Tokenizer, metadata: Metadata) -> None:
    """Tokens that are found whole in a text before anything splits it."""
    types = metadata.get("tokenizer.ggml.token_type") or ()
    tokens = metadata["tokenizer.ggml.tokens"]
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind != TokenType.USER_DEFINED)
            for token, kind in zip(tokens, types, strict=False)
            if kind in (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)
        ]
    )


def _add_bos_eos(backend: tokenizers.Tokenizer, metadata: Metadata, special: Mapping[str, str]) -> None:
    """Files written before the flags existed mean llama.cpp's defaults."""
    is_sentencepiece = metadata["tokenizer.ggml.model"] == "llama"
    is_llama3 = metadata.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "llama-v3")
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", is_sentencepiece or is_llama3)
    adds_eos = metadata.get("tokenizer.ggml.add_eos_token", False)
    backend.post_processor = bos_eos_processor(
        backend,
        bos=special.get("bos_token") if adds_bos else None,
        eos=special.get("eos_token") if adds_eos else None,
    )


def _chat_templates(metadata: Metadata) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    named = {
        key.removeprefix(prefix + "."): text for key, text in metadata.items() if key.startswith(prefix + ".")
    }
    return named | ({DEFAULT: metadata[prefix]} if prefix in metadata else {})


def _vocabulary(metadata: Metadata, source: str) -> dict[str, int]:
    return {token: i for i, token in enumerate(_need(metadata, "tokens", source))}


def _token(metadata: Metadata, name: str) -> str | None:
    """The text of the token that plays a role."""
    token_id, tokens = metadata.get(f"tokenizer.ggml.{name}_token_id"), metadata["tokenizer.ggml.tokens"]
    return tokens[token_id] if token_id is not None and token_id < len(tokens) else None


def _need(metadata: Metadata, name: str, source: str) -> Any:
    key = f"tokenizer.ggml.{name}"
    if not metadata.get(key):
        raise ModelLoadError(f"{source}: {key} is missing from the metadata")
    return metadata[key]
