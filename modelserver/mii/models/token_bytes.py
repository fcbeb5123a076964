"""How a vocabulary spells text: the bytes behind a token.

Two spellings cover the language models that are served:

* byte-level (GPT-2, Llama 3, Qwen, Falcon...): a token is a string of stand-ins, one character per byte;
* SentencePiece (Llama 2, Mistral, Gemma...): a token is text with "▁" for a space; a byte that no token
  covers is a token of its own, written <0xE2>.

Knowing the bytes, decoding is concatenation, and it can be done incrementally and exactly: a character may
be spread over tokens.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Spelling:
    """`bytes_of(token)` is exact; `drops_first_space`: decoded text loses one leading space, which the
    encoder had put there."""

    bytes_of: Callable[[str], bytes]
    drops_first_space: bool = False


def byte_alphabet() -> dict[str, int]:
    """GPT-2's stand-ins: a printable Latin-1 byte stands for itself, the others follow from U+0100 on."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = byte_alphabet()


def spelling_of(decoder: Mapping[str, Any] | None) -> Spelling:
    """The spelling behind a `decoder` section of tokenizer.json.

    Raises ValueError for a decoder that is neither byte-level nor SentencePiece's.
    """
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Spelling(_byte_level)
    if unknown := set(kinds) - {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        raise ValueError(f"decoder {' + '.join(sorted(unknown))} is neither byte-level nor SentencePiece's")
    if not kinds:
        raise ValueError("it has no decoder, so the text of its tokens is unknown")
    return _sentencepiece(steps)


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTES[character] for character in token])
    except KeyError:  # an added token, written as plain text
        return token.encode()


def _sentencepiece(steps: list[Mapping[str, Any]]) -> Spelling:
    replacements = [_replacement(step) for step in steps if step["type"] in ("Replace", "Metaspace")]
    byte_fallback = any(step["type"] == "ByteFallback" for step in steps)

    def bytes_of(token: str) -> bytes:
        if byte_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    return Spelling(bytes_of, drops_first_space=any(map(_drops_first_space, steps)))


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if "String" not in step["pattern"]:
        raise ValueError(f"decoder Replace with the pattern {step['pattern']} is not a plain string")
    return step["pattern"]["String"], step["content"]


def _drops_first_space(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Strip":
        if (step["content"], step["start"], step["stop"]) != (" ", 1, 0):
            raise ValueError(f"decoder {dict(step)} strips more than one leading space")
        return True
    return bool(step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
