"""Tokenizers of Hugging Face directories, against transformers reading the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from mii.errors import ModelLoadError, UnsupportedModel
from mii.models.snapshot import Snapshot
from mii.models.token_bytes import byte_alphabet
from mii.models.tokenizer import Tokenizer, load_tokenizer

SAMPLES = ["", "ab", "hello  world\n", "x</s>ab<pad>", "<s>é😀", "<extra> <think>"]
VOCABULARY = ["<s>", "</s>", "<pad>", *byte_alphabet(), "ab", "Ġa"]
MERGES = [("a", "b"), ("Ġ", "a")]


def byte_level() -> tokenizers.Tokenizer:
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def with_processor() -> tokenizers.Tokenizer:
    backend = byte_level()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return backend


def write(directory: Path, backend: tokenizers.Tokenizer | None = None, **files: Any) -> Path:
    """`files` are JSON files by their stem."""
    if backend is not None:
        backend.save(str(directory / "tokenizer.json"))
    for stem, content in files.items():
        (directory / f"{stem}.json").write_text(json.dumps(content))
    return directory


def load(directory: Path) -> Tokenizer:
    return load_tokenizer(Snapshot("model", "", directory))


def config(**more: Any) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False, "normalized": False, "__type": "AddedToken"},
        **more,
    }


@pytest.mark.parametrize("backend", [byte_level, with_processor])
@pytest.mark.parametrize(
    "flags",
    [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}],
    ids=str,
)
def test_encodes_and_decodes_as_transformers(tmp_path: Path, backend: Any, flags: dict[str, bool]) -> None:
    from transformers import AutoTokenizer

    added = {"261": {"content": "<extra>", "special": True}, "262": {"content": "<think>", "special": False}}
    filled = {
        i: {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, **token}
        for i, token in added.items()
    }
    settings = config(**flags, added_tokens_decoder=filled, pad_token="<pad>")
    directory = write(tmp_path, backend(), tokenizer_config=settings)
    ours, theirs = load(directory), AutoTokenizer.from_pretrained(directory)
    for sample in SAMPLES:
        for special in (True, False):
            assert ours.encode(sample, add_special_tokens=special) == theirs.encode(
                sample, add_special_tokens=special
            )
        ids = ours.encode(sample)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.special_ids == {0, 1, 2, 261}
    assert ours.vocab_size == len(theirs)


def test_added_token_at_odds_with_tokenizer_json(tmp_path: Path) -> None:
    token = {"content": "<extra>", "special": True}
    write(tmp_path, byte_level(), tokenizer_config=config(added_tokens_decoder={"300": token}))
    with pytest.raises(ModelLoadError, match=r"tokenizer_config.json: added token '<extra>' has id 300.*261"):
        load(tmp_path)


def test_special_tokens_map_and_its_absence(tmp_path: Path) -> None:
    write(tmp_path, byte_level(), special_tokens_map={"eos_token": "</s>", "bos_token": {"content": "<s>"}})
    tokenizer = load(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (0, (1,))
    assert tokenizer.encode("</s>") == [1]
    (tmp_path / "special_tokens_map.json").unlink()
    bare = load(tmp_path)
    assert (bare.bos_token_id, bare.eos_token_ids, bare.special_ids) == (None, (), frozenset())


@pytest.mark.parametrize(
    ("model", "generation", "expected"),
    [
        (None, None, (1,)),
        ({"eos_token_id": 7}, None, (1, 7)),
        ({"eos_token_id": [1, 7]}, {"eos_token_id": [8, 1]}, (1, 8, 7)),
        ({"eos_token_id": None}, {}, (1,)),
    ],
)
def test_every_eos_id_counts(tmp_path: Path, model: Any, generation: Any, expected: tuple[int, ...]) -> None:
    files = {"tokenizer_config": config(), "config": model, "generation_config": generation}
    write(tmp_path, byte_level(), **{stem: content for stem, content in files.items() if content is not None})
    assert load(tmp_path).eos_token_ids == expected


def test_truncation_and_padding_of_the_training_run_are_off(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    write(tmp_path, backend)
    assert len(load(tmp_path).encode("x" * 20)) == 20
    assert len(load(tmp_path).encode("x")) == 1


def test_sentencepiece_with_metaspace(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[("▁", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    write(tmp_path, backend)
    tokenizer = load(tmp_path)
    assert tokenizer.encode("a a") == [2, 2]
    assert tokenizer.decode([2, 2]) == "a a"
    assert tokenizer.token_text(2) == " a"


@pytest.mark.parametrize("tokenizer_class", ["GPT2Tokenizer", "GPT2TokenizerFast"])
def test_gpt2_files_without_tokenizer_json(tmp_path: Path, tokenizer_class: str) -> None:
    """As the OPT models ship."""
    from transformers import AutoTokenizer

    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    settings = config(
        tokenizer_class=tokenizer_class, add_bos_token=True, pad_token="<pad>", unk_token="</s>"
    )
    write(tmp_path, vocab=vocabulary, tokenizer_config=settings)
    merges = "\n".join(" ".join(pair) for pair in MERGES)
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode("ab a") == [0, 259, 260]
    for sample in SAMPLES:
        assert ours.encode(sample) == theirs.encode(sample)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(
        ModelLoadError, match=r"looked for tokenizer\.json, and GPT-2's vocab\.json with merg"
    ):
        load(tmp_path)


def test_only_a_sentencepiece_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a")
    with pytest.raises(ModelLoadError, match=r"tokenizer\.model alone is not read here.*save_pretrained"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_malformed_files_are_named(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path, byte_level())
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelLoadError, match=name):
        load(tmp_path)


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece()])
def test_a_decoder_that_hides_its_bytes_is_refused(tmp_path: Path, decoder: Any) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    if decoder is not None:
        backend.decoder = decoder
    write(tmp_path, backend)
    with pytest.raises(UnsupportedModel, match="decoder"):
        load(tmp_path)


def test_tokens_that_are_added_keep_their_text(tmp_path: Path) -> None:
    backend = byte_level()
    backend.add_special_tokens([AddedToken("<｜end▁of text｜>", special=True)])
    write(tmp_path, backend)
    tokenizer = load(tmp_path)
    ids = tokenizer.encode("a<｜end▁of text｜>b")
    assert len(ids) == 3
    assert tokenizer.token_text(ids[1]) == "<｜end▁of text｜>"
    assert tokenizer.decode(ids) == "ab"
