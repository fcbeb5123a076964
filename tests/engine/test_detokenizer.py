"""Streaming text: pieces, characters split over tokens, stop strings."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mii.engine.detokenizer import Detokenizer
from mii.engine.stop_strings import StopStrings
from mii.errors import InvalidRequest
from mii.models.gguf_tokenizer import gguf_tokenizer
from mii.models.tokenizer import Tokenizer

EMOJI = "👍🏽😀é好"


@pytest.fixture(scope="module")
def spm() -> Tokenizer:
    """SentencePiece: ids 3.. are the 256 bytes, then " a" (259), " b", "c"."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "▁b", "c", "▁"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 4,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return Tokenizer(gguf_tokenizer(metadata, "spm"))


def chunked(ids: Sequence[int], cuts: Sequence[int]) -> list[Sequence[int]]:
    """`ids` in pushes of the sizes `cuts` (0 is allowed), then one by one."""
    chunks, at = [], 0
    for size in cuts:
        chunks.append(ids[at : at + size])
        at += size
    return chunks + [[i] for i in ids[at:]]


def run(detokenizer: Detokenizer, chunks: Sequence[Sequence[int]]) -> tuple[str, str | None]:
    """Like a server: text until a stop, else all of it."""
    text = ""
    for chunk in chunks:
        piece = detokenizer.push(chunk)
        text += piece.text
        if piece.stop is not None:
            return text, piece.stop
    return text + detokenizer.flush(), None


any_ids = st.lists(st.integers(0, 49151), max_size=40)
cuts = st.lists(st.integers(0, 5), max_size=10)


@settings(deadline=None, max_examples=300)
@given(ids=any_ids, sizes=cuts, skip=st.booleans())
def test_pieces_join_to_the_decoded_text(
    tokenizer: Tokenizer, ids: list[int], sizes: list[int], skip: bool
) -> None:
    detokenizer = Detokenizer(tokenizer, [], skip_special_tokens=skip)
    assert run(detokenizer, chunked(ids, sizes))[0] == tokenizer.decode(ids, skip_special_tokens=skip)


@settings(deadline=None)
@given(text=st.text("ab 1" + EMOJI, max_size=20))
@example("👍🏽👍🏽")
def test_no_piece_shows_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tokenizer, [])
    so_far = ""
    for token_id in tokenizer.encode(text):
        so_far += detokenizer.push([token_id]).text
        assert text.startswith(so_far)
    assert so_far + detokenizer.flush() == text


def test_an_unfinished_character_comes_out_at_flush(tokenizer: Tokenizer) -> None:
    first, *_ = tokenizer.encode("😀")
    detokenizer = Detokenizer(tokenizer, [])
    assert detokenizer.push([first]) == ("", None)
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_special_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a<|im_end|>b")
    assert run(Detokenizer(tokenizer, []), [ids])[0] == "ab"
    assert run(Detokenizer(tokenizer, [], skip_special_tokens=False), [ids])[0] == "a<|im_end|>b"
    assert run(Detokenizer(tokenizer, [], stop=["<|im_end|>"], skip_special_tokens=False), [ids]) == (
        "a",
        "<|im_end|>",
    )


spm_ids = st.lists(
    st.sampled_from([0, 1, 2, 259, 260, 261, 262, *(3 + byte for byte in "é😀".encode())]), max_size=12
)


@settings(deadline=None, max_examples=300)
@given(prompt=spm_ids, ids=spm_ids, sizes=cuts, skip=st.booleans())
@example(prompt=[1], ids=[259], sizes=[], skip=True)
@example(prompt=[1, 3 + 0xC3], ids=[3 + 0xA9], sizes=[], skip=True)
@example(prompt=[3 + 0xC3], ids=[261], sizes=[], skip=True)
def test_text_continues_the_prompt(
    spm: Tokenizer, prompt: list[int], ids: list[int], sizes: list[int], skip: bool
) -> None:
    before = spm.decode(prompt, skip_special_tokens=skip)
    whole = spm.decode(prompt + ids, skip_special_tokens=skip)
    text = run(Detokenizer(spm, prompt, skip_special_tokens=skip), chunked(ids, sizes))[0]
    if whole.startswith(before):
        assert before + text == whole
    else:  # the output finishes the prompt's last character
        assert before.removesuffix("\ufffd") + text == whole


def test_leading_spaces_of_sentencepiece(spm: Tokenizer) -> None:
    assert Detokenizer(spm, [1]).push([259, 260]).text == "a b"  # the text starts here
    assert Detokenizer(spm, [1, 261]).push([259, 260]).text == " a b"  # "c a b"


# Stop strings.


def oracle(texts: list[str], stops: Sequence[str], include: bool, min_tokens: int) -> tuple[str, str | None]:
    """The definition: of all matches in the searched text the first to be complete, then the longest."""
    free, text = "".join(texts[:min_tokens]), "".join(texts[min_tokens:])
    for end in range(len(text) + 1):
        if ending := [stop for stop in stops if text[:end].endswith(stop)]:
            stop = max(ending, key=len)
            return free + text[: end if include else end - len(stop)], stop
    return free + text, None


TOKENS = ["a", "b", "ab", "ba", "aa", " a", "\n", "abc", "é", "<"]
stop_lists = st.lists(
    st.text("ab", min_size=1, max_size=5) | st.text("ab \né<", min_size=1, max_size=5), max_size=6
)


@settings(deadline=None, max_examples=500)
@given(
    texts=st.lists(st.sampled_from(TOKENS), max_size=25),
    stops=stop_lists,
    sizes=cuts,
    include=st.booleans(),
    min_tokens=st.integers(0, 8),
)
@example(texts=["a", "ab"], stops=["aab", "ab", "b"], sizes=[], include=False, min_tokens=0)
@example(texts=["a", "b", "a"], stops=["aba", "b"], sizes=[], include=False, min_tokens=0)
@example(texts=["a", "b", "ab"], stops=["ab"], sizes=[3], include=False, min_tokens=1)
def test_stops_as_in_the_whole_text(
    tokenizer: Tokenizer,
    texts: list[str],
    stops: list[str],
    sizes: list[int],
    include: bool,
    min_tokens: int,
) -> None:
    ids = [tokenizer.encode(text)[0] for text in texts]
    assert [tokenizer.token_text(i) for i in ids] == texts
    detokenizer = Detokenizer(tokenizer, [], stop=stops, include_stop_str=include, min_tokens=min_tokens)
    assert run(detokenizer, chunked(ids, sizes)) == oracle(texts, stops, include, min_tokens)


@settings(deadline=None, max_examples=300)
@given(ids=any_ids, sizes=cuts, data=st.data())
def test_stops_in_any_tokens(
    tokenizer: Tokenizer, ids: list[int], sizes: list[int], data: st.DataObject
) -> None:
    text = tokenizer.decode(ids)
    start = data.draw(st.integers(0, len(text)))
    stop = text[start : start + data.draw(st.integers(1, 6))] or "none"
    assume("\ufffd" not in stop)
    assert run(Detokenizer(tokenizer, [], stop=[stop]), chunked(ids, sizes)) == oracle(
        [text], [stop], False, 0
    )


@settings(deadline=None, max_examples=300)
@given(text=st.text("ab", max_size=20), stops=stop_lists)
def test_holds_back_no_more_than_could_become_a_stop(text: str, stops: list[str]) -> None:
    strings = StopStrings(stops)
    out = ""
    for end, character in enumerate(text, start=1):
        released, stop = strings.feed(character)
        out += released
        if stop is not None:
            return
        starts = [n for s in stops for n in range(len(s)) if text[:end].endswith(s[:n])]
        assert out == text[: end - max(starts, default=0)]


def test_stop_across_tokens(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [], stop=["\n\nHuman:", "###"])
    assert detokenizer.push(tokenizer.encode("Yes.")) == ("Yes.", None)
    assert detokenizer.push(tokenizer.encode("\n")) == ("", None)
    assert detokenizer.push(tokenizer.encode("\nHu")) == ("", None)
    assert detokenizer.push(tokenizer.encode("man: hi")) == ("", "\n\nHuman:")
    assert detokenizer.push(tokenizer.encode("late")) == ("", "\n\nHuman:")
    assert detokenizer.flush() == ""


def test_flush_releases_what_was_no_stop(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [], stop=["###"])
    assert detokenizer.push(tokenizer.encode("a##")) == ("a", None)
    assert detokenizer.flush() == "##"
    assert detokenizer.flush() == ""


def test_empty_stop_string_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="empty") as caught:
        Detokenizer(tokenizer, [], stop=["x", ""])
    assert caught.value.param == "stop"
