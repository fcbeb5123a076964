"""SmolLM2's tokenizer out of its GGUF file, against transformers and the original."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from mii.models.tokenizer import Tokenizer

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
def transformers_backend(smollm2: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    return loaded.backend_tokenizer


@pytest.fixture(scope="module")
def original(transformers_backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of HuggingFaceTB/SmolLM2: transformers' with the pre-tokenizer it was trained with."""
    copy = tokenizers.Tokenizer.from_str(transformers_backend.to_str())
    copy.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return copy


def test_smollm2_metadata(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 49152
    assert tokenizer.eos_token_ids == (2,)
    assert tokenizer.bos_token_id == 1
    assert tokenizer.special_ids == frozenset(range(17))
    assert tokenizer.chat_template is not None
    assert "<|im_start|>" in tokenizer.chat_template


@pytest.mark.parametrize("sample", TEXTS)
def test_smollm2_encodes_and_decodes_as_the_original(
    tokenizer: Tokenizer, original: tokenizers.Tokenizer, sample: str
) -> None:
    ids = tokenizer.encode(sample)
    assert ids == original.encode(sample).ids
    for skip in (True, False):
        assert tokenizer.decode(ids, skip_special_tokens=skip) == original.decode(
            ids, skip_special_tokens=skip
        )


@settings(deadline=None, max_examples=300)
@given(text)
@example("a  1")
@example("\n 2")
def test_smollm2_encodes_any_text_as_the_original(
    tokenizer: Tokenizer, original: tokenizers.Tokenizer, sample: str
) -> None:
    assert tokenizer.encode(sample) == original.encode(sample).ids


@settings(deadline=None, max_examples=300)
@given(text)
def test_smollm2_encodes_as_transformers_but_for_spaces_before_digits(
    tokenizer: Tokenizer, transformers_backend: tokenizers.Tokenizer, sample: str
) -> None:
    """transformers reads this file with GPT-2's pre-tokenizer, which keeps the last space of a run for the
    digit that follows."""
    shielded = "".join("x" + character if character.isnumeric() else character for character in sample)
    assert tokenizer.encode(shielded) == transformers_backend.encode(shielded).ids


def test_smollm2_keeps_spaces_before_a_digit_together(
    tokenizer: Tokenizer, transformers_backend: tokenizers.Tokenizer
) -> None:
    assert [tokenizer.token_text(i) for i in tokenizer.encode("a  1")] == ["a", "  ", "1"]
    assert transformers_backend.encode("a  1").tokens == ["a", "Ġ", "Ġ", "1"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 49151), max_size=30), st.booleans())
def test_smollm2_decodes_any_ids_as_the_original(
    tokenizer: Tokenizer, original: tokenizers.Tokenizer, ids: list[int], skip: bool
) -> None:
    assert tokenizer.decode(ids, skip_special_tokens=skip) == original.decode(ids, skip_special_tokens=skip)


@settings(deadline=None)
@given(st.text("abc 12\n.,éßüЖ你好😀👍🏽ह"))  # SmolLM2 has no tokens for the rarest bytes
def test_token_bytes_are_the_text_in_pieces(tokenizer: Tokenizer, sample: str) -> None:
    ids = tokenizer.encode(sample)
    assert b"".join(map(tokenizer.token_bytes, ids)) == sample.encode()


def test_token_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_text(2) == "<|im_end|>"
    assert [tokenizer.token_text(i) for i in tokenizer.encode("The capital")] == [
        "The",
        " capital",
    ]
    halves = tokenizer.encode("😀")
    assert len(halves) > 1
    assert "\ufffd" in tokenizer.token_text(halves[0])
    assert tokenizer.token_bytes(10**6) == b""


def test_encode_from_many_threads(tokenizer: Tokenizer) -> None:
    samples = [sample * (i % 7 + 1) for i, sample in enumerate(TEXTS * 20)]
    alone = [tokenizer.encode(sample) for sample in samples]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, samples)) == alone
