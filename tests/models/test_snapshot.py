"""What a model's name means, and models that are on this machine already."""

from pathlib import Path

import pytest

from mii.errors import ModelLoadError
from mii.models.snapshot import Snapshot, fetch
from mii.models.source import HubModel, LocalPath, RemoteFile, parse_source, shown

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt2", HubModel("gpt2", "main")),
        ("org/name", HubModel("org/name", "main")),
        ("org/name-7B.v0.3/some_file.gguf", HubModel("org/name-7B.v0.3", "main", "some_file.gguf")),
        ("org/name/sub/file.gguf", HubModel("org/name", "main", "sub/file.gguf")),
        ("org/name-GGUF", HubModel("org/name-GGUF", "main")),
        (f"{HUB}/org/name/resolve/v1/sub/f.gguf?download=true", HubModel("org/name", "v1", "sub/f.gguf")),
        (f"{HUB}/org/name/blob/main/f.gguf", HubModel("org/name", "main", "f.gguf")),
        ("https://files.example/a/b.gguf?key=1", RemoteFile("https://files.example/a/b.gguf?key=1")),
    ],
)
def test_names_elsewhere(model: str, expected: object) -> None:
    assert parse_source(model, "main", endpoint=HUB) == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "not a model's name"),
        ("a/b/c", "not a model's name"),
        ("org/name/../x.gguf", "not a model's name"),
        ("../nowhere", "no such file or directory"),
        ("/nowhere/at/all", "no such file or directory"),
        ("nowhere.gguf", "no such file"),
        ("file:///nowhere/at/all", "no such file or directory"),
        ("file://host/path", "file:///absolute/path"),
        ("s3://bucket/model", "s3:// is not supported"),
        (f"{HUB}/org/name", "only .gguf files are loaded by URL"),
        ("https://user:secret@files.example/b.bin?key=secret", "https://files.example/b.bin: only"),
        ("https://user:secret@files.example/b.gguf", "a user or password is not supported"),
    ],
)
def test_names_that_mean_nothing(model: str, message: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        parse_source(model, "main", endpoint=HUB)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_existing_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/name", "main", endpoint=HUB) == LocalPath(tmp_path / "org" / "name")


def test_file_urls_are_decoded(tmp_path: Path) -> None:
    directory = tmp_path / "my model"
    directory.mkdir()
    assert parse_source(directory.as_uri(), "main", endpoint=HUB) == LocalPath(directory)


@pytest.mark.parametrize("model", ["{path}", "https://files.example/b.gguf"])
def test_a_revision_is_for_the_hub_only(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="applies to Hugging Face models only"):
        parse_source(model.format(path=tmp_path), "v1", endpoint=HUB)


def test_secrets_of_urls_are_not_shown() -> None:
    assert shown("https://me:pw@host:81/x.gguf?sig=1") == "https://host:81/x.gguf"


def test_directory(single: Path) -> None:
    assert fetch(str(single)) == Snapshot(str(single), "", single)
    assert fetch(single.as_uri()).directory == single


def test_gguf_file_and_directory_with_one(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert fetch(str(file)) == Snapshot(str(file), "", tmp_path, file)
    assert fetch(str(tmp_path)).gguf == file


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no config.json and no .gguf file"),
        (["a.gguf", "b.gguf"], "name one of them: a.gguf, b.gguf"),
        (["config.json", "pytorch_model.bin"], "convert them to safetensors"),
        (["config.json"], "no model.safetensors"),
    ],
)
def test_directories_that_are_no_model(files: list[str], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelLoadError) as caught:
        fetch(str(tmp_path))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_config_alone_is_enough_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert fetch(str(tmp_path), weights=False).directory == tmp_path


def test_a_file_that_is_no_gguf(single: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"name the directory of a safetensors model"):
        fetch(str(single / "model.safetensors"))
