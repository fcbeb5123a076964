"""GGUF files by URL, from a server that breaks off, changes the file or cannot resume."""

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from mii.errors import ModelLoadError
from mii.models.download import ATTEMPTS, download
from mii.models.progress import Meter
from mii.models.snapshot import fetch

CONTENT = b"GGUF" + bytes(range(256)) * 20_000  # 5 MB
PATH = "/models/tiny.gguf"
THIRD = len(CONTENT) // 3


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tiny.gguf"


@pytest.fixture
def answer(file_server: Any) -> Any:
    """What the server has at PATH; tests change it."""
    return file_server.put(PATH, CONTENT, ETag='"one"')


def get(server: Any, target: Path) -> Meter:
    meter = Meter(None, "", None)
    download(server.url + PATH, target, meter, magic=b"GGUF", pause=0.0)
    return meter


def test_whole(file_server: Any, answer: Any, target: Path) -> None:
    meter = get(file_server, target)
    assert target.read_bytes() == CONTENT
    assert meter.moved == len(CONTENT)
    assert not list(target.parent.glob("*.part*"))


def test_interruptions_resume_where_they_stopped(file_server: Any, answer: Any, target: Path) -> None:
    file_server.cuts = [THIRD, THIRD]
    meter = get(file_server, target)
    assert target.read_bytes() == CONTENT
    assert file_server.ranges(PATH) == [None, f"bytes={THIRD}-", f"bytes={2 * THIRD}-"]
    assert meter.moved == len(CONTENT)


def test_a_later_run_resumes(file_server: Any, answer: Any, target: Path) -> None:
    file_server.cuts = [THIRD] + [0] * ATTEMPTS
    with pytest.raises(ModelLoadError, match=rf"stopped after {THIRD} bytes .* start again to go on"):
        get(file_server, target)
    assert not target.exists()
    file_server.cuts, file_server.seen = [], []
    meter = get(file_server, target)
    assert target.read_bytes() == CONTENT
    assert file_server.ranges(PATH) == [f"bytes={THIRD}-"]
    assert meter.moved == len(CONTENT) - THIRD


def test_a_file_that_changed_starts_over(file_server: Any, answer: Any, target: Path) -> None:
    file_server.cuts = [THIRD] + [0] * ATTEMPTS
    with pytest.raises(ModelLoadError):
        get(file_server, target)
    file_server.cuts = []
    newer = b"GGUF" + bytes(len(CONTENT))
    file_server.put(PATH, newer, ETag='"two"')
    get(file_server, target)
    assert target.read_bytes() == newer


@pytest.mark.parametrize("change", [{"ranges": False}, {"headers": {}}], ids=["no ranges", "no version"])
def test_a_server_that_cannot_resume(change: Any, file_server: Any, answer: Any, target: Path) -> None:
    for name, value in change.items():
        setattr(answer, name, value)
    file_server.cuts = [THIRD]
    get(file_server, target)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_complete_or_too_long_starts_over(file_server: Any, answer: Any, target: Path) -> None:
    target.parent.mkdir()
    part = target.with_name("tiny.gguf.part")
    part.write_bytes(CONTENT + b"more")
    part.with_name("tiny.gguf.part.etag").write_text('"one"')
    get(file_server, target)
    assert target.read_bytes() == CONTENT


def test_again_asks_only_whether_it_changed(file_server: Any, answer: Any, target: Path) -> None:
    get(file_server, target)
    assert get(file_server, target).moved == 0
    file_server.put(PATH, CONTENT + b"2", ETag='"two"')
    get(file_server, target)
    assert target.read_bytes() == CONTENT + b"2"


def test_what_is_there_serves_when_the_server_is_gone(file_server: Any, answer: Any, target: Path) -> None:
    get(file_server, target)
    file_server.stop()
    get(file_server, target)
    assert target.read_bytes() == CONTENT


def test_concurrent_downloads_share_one_transfer(file_server: Any, answer: Any, target: Path) -> None:
    threads = [threading.Thread(target=get, args=(file_server, target)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    sent = [seen for seen in file_server.seen if "if-none-match" not in seen.headers]
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("status", "message"), [(404, "404 .*check the address"), (403, "authorisation"), (503, "503")]
)
def test_refusals(status: int, message: str, file_server: Any, target: Path) -> None:
    file_server.put(PATH, status=status)
    with pytest.raises(ModelLoadError, match=message):
        get(file_server, target)


def test_something_else_than_gguf_is_not_kept(file_server: Any, target: Path) -> None:
    file_server.put(PATH, b"<html>please log in</html>", ETag='"page"')
    with pytest.raises(ModelLoadError, match=r"is not a \.gguf file: it starts with b'<htm'"):
        get(file_server, target)
    assert not list(target.parent.glob("tiny.gguf*.etag"))
    assert not target.exists()


def test_a_place_that_cannot_be_written(file_server: Any, answer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadError, match="cannot be stored as") as caught:
        get(file_server, tmp_path / "file" / "tiny.gguf")
    assert os.strerror(errno.ENOTDIR) in str(caught.value) or "exists" in str(caught.value)


def test_fetch_keeps_it_in_the_hubs_home(
    file_server: Any,
    answer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    url = file_server.url + PATH + "?signature=secret"
    with caplog.at_level(logging.INFO, logger="mii"):
        snapshot = fetch(url)
    assert snapshot.gguf is not None
    assert snapshot.gguf.read_bytes() == CONTENT
    assert snapshot.gguf.is_relative_to(tmp_path)
    assert snapshot.gguf.name == "tiny.gguf"
    assert "downloading tiny.gguf: 0.01 GB in" in caplog.text
    assert "secret" not in caplog.text

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    file_server.seen.clear()
    assert fetch(url) == snapshot
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE is set"):
        fetch(url + "2")
    assert not file_server.seen
