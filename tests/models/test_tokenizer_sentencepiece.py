"""SentencePiece's tokenizers out of GGUF metadata, against its algorithm written naively."""

from functools import cache
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mii.models.gguf_tokenizer import gguf_tokenizer
from mii.models.tokenizer import Tokenizer

SCORED = {"▁": -1, "a": -2, "b": -3, "c": -4, "ab": -5, "▁a": -6, "bc": -7, "▁▁": -8, "▁ab": -9, "abc": -10}


def sentencepiece(**more: Any) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *SCORED]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [float(score) for score in SCORED.values()],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(SCORED),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


def greedy_merges(sample: str) -> list[str]:
    """SentencePiece's BPE, naively: merge the neighbours whose union scores best, again and again."""
    parts = list(("▁" + sample).replace(" ", "▁")) if sample else []
    while True:
        unions = [(SCORED.get(parts[i] + parts[i + 1], -99), -i) for i in range(len(parts) - 1)]
        score, at = max(unions, default=(-99, 0))
        if score == -99:
            return parts
        parts[-at : -at + 2] = [parts[-at] + parts[-at + 1]]


def as_tokens(parts: list[str]) -> list[str]:
    return [
        token
        for part in parts
        for token in ([part] if part in SCORED else map("<0x{:02X}>".format, part.encode()))
    ]


@settings(deadline=None, max_examples=300)
@given(st.text("abc é😀", max_size=30))
@example(" leading")
def test_sentencepiece_merges_by_score_and_falls_back_to_bytes(sample: str) -> None:
    tokenizer, tokens = _spm(), sentencepiece()["tokenizer.ggml.tokens"]
    ids = tokenizer.encode(sample)
    assert [tokens[i] for i in ids] == ["<s>", *as_tokens(greedy_merges(sample))]
    assert tokenizer.decode(ids) == sample


def load(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer(gguf_tokenizer(metadata, "model.gguf"))


def pieces(tokenizer: Tokenizer, sample: str) -> list[str]:
    return [tokenizer.token_text(i) for i in tokenizer.encode(sample, add_special_tokens=False)]


@cache
def _spm() -> Tokenizer:
    return load(sentencepiece())


def test_sentencepiece_spaces() -> None:
    assert pieces(_spm(), "ab") == [" ab"]
    assert pieces(_spm(), "ab</s>ab") == [" ab", "</s>", " ab"]  # again after a special token
    assert pieces(load(sentencepiece(add_space_prefix=False)), "ab") == ["ab"]
    assert _spm().decode(_spm().encode("ab")) == "ab"
    assert load(sentencepiece(add_space_prefix=False)).decode([264]) == " a"


def test_sentencepiece_bytes() -> None:
    tokenizer = _spm()
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("é")] == [b"<s>", b" ", b"\xc3", b"\xa9"]
    assert tokenizer.decode([3 + 0xC3]) == "\ufffd"
    assert tokenizer.special_ids == {0, 1, 2}
