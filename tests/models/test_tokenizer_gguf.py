"""Byte-level tokenizers out of GGUF metadata, made by hand."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mii.errors import ModelLoadError, UnsupportedModel
from mii.models.gguf_pretokenizers import RULES
from mii.models.gguf_tokenizer import gguf_tokenizer
from mii.models.token_bytes import byte_alphabet
from mii.models.tokenizer import Tokenizer

PIECES = ["<s>", " ", "  ", "\n", "\t", "a", "The", "'s", "1", "23", "½", "٣", "é", "😀"]
text = st.text() | st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


def byte_level(pre: str | None = None, merges: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    tokens = ["<s>", "</s>", *byte_alphabet(), *dict.fromkeys(merge.replace(" ", "") for merge in merges)]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    metadata |= {} if pre is None else {"tokenizer.ggml.pre": pre}
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def load(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer(gguf_tokenizer(metadata, "model.gguf"))


def pieces(tokenizer: Tokenizer, sample: str) -> list[str]:
    return [tokenizer.token_text(i) for i in tokenizer.encode(sample, add_special_tokens=False)]


SPACES_AND_DIGITS = ["Ġ Ġ", "1 2", "12 3", "Ġ 1", "a b", ". Ċ"]


@pytest.mark.parametrize(
    ("pre", "sample", "expected"),
    [
        ("gpt-2", "123", ["123"]),
        ("default", "  1", [" ", " 1"]),
        ("smollm", "123", ["1", "2", "3"]),
        ("smollm", "  1", ["  ", "1"]),
        ("llama-bpe", "12312", ["123", "12"]),
        ("llama-bpe", " 1", [" ", "1"]),
        ("llama-bpe", ".\n", [".\n"]),
        ("gpt-2", ".\n", [".", "\n"]),
        ("qwen2", "123", ["1", "2", "3"]),
        ("tekken", "12ab", ["1", "2", "ab"]),
    ],
)
def test_pre_tokenizers_cut_as_the_models_were_trained(pre: str, sample: str, expected: list[str]) -> None:
    assert pieces(load(byte_level(pre, SPACES_AND_DIGITS)), sample) == expected


@pytest.mark.parametrize("pre", sorted(RULES))
@settings(deadline=None, max_examples=30)
@given(sample=text)
def test_every_pre_tokenizer_keeps_the_text(pre: str, sample: str) -> None:
    tokenizer = _cached(pre)
    kept = tokenizer.decode(tokenizer.encode(sample, add_special_tokens=False), skip_special_tokens=False)
    assert kept == (unicodedata.normalize("NFC", sample) if RULES[pre].nfc else sample)


@cache
def _cached(pre: str) -> Tokenizer:
    return load(byte_level(pre, SPACES_AND_DIGITS))


def test_llama3_takes_whole_tokens_and_starts_with_bos() -> None:
    unreachable = byte_level("llama-bpe", ["a b"])
    unreachable["tokenizer.ggml.tokens"].append("abc")
    tokenizer = load(unreachable)
    assert pieces(tokenizer, "abc") == ["abc"]
    assert tokenizer.encode("a")[0] == 0
    assert tokenizer.encode("a", add_special_tokens=False)[0] != 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, []),
        ({"add_bos_token": True}, [0]),
        ({"add_eos_token": True}, [1]),
        ({"add_bos_token": True, "add_eos_token": True}, [0, 1]),
    ],
)
def test_bos_and_eos_flags(flags: dict[str, bool], expected: list[int]) -> None:
    assert load(byte_level("gpt-2", ["a b"], **flags)).encode("") == expected


def test_every_end_token_counts() -> None:
    metadata = byte_level("gpt-2", ["a b"], eot_token_id=5, eom_token_id=1)
    assert load(metadata).eos_token_ids == (1, 5)


def test_user_defined_tokens_are_whole_but_not_special() -> None:
    metadata = byte_level("gpt-2", ["a b"])
    metadata["tokenizer.ggml.tokens"].append("<think> ")
    metadata["tokenizer.ggml.token_type"].append(4)
    tokenizer = load(metadata)
    ids = tokenizer.encode("x<think> y")
    assert len(ids) == 3
    assert tokenizer.decode(ids) == "x<think> y"


def test_named_chat_templates() -> None:
    metadata = byte_level("gpt-2", ["a b"])
    metadata |= {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    tokenizer = load(metadata)
    assert tokenizer.apply_chat_template([{"role": "user"}]) == "plain"
    assert tokenizer.apply_chat_template([{"role": "user"}], tools=[{"type": "function"}]) == "tools"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokenizer.ggml.pre": "martian"}, "tokenizer.ggml.pre 'martian'"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model 'bert'"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model None"),
    ],
)
def test_unknown_kinds_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"model.gguf.*{re.escape(named)}"):
        load(byte_level("gpt-2", ["a b"]) | change)


@pytest.mark.parametrize("key", ["tokens", "merges"])
def test_missing_metadata_are_named(key: str) -> None:
    metadata = byte_level("gpt-2", ["a b"])
    del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(ModelLoadError, match=f"model.gguf: tokenizer.ggml.{key} is missing"):
        load(metadata)
