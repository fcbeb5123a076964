"""Hugging Face ids, from a hub on loopback, in processes that know it by environment variables only."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = """
import json, logging, sys
from mii.errors import ModelLoadError
from mii.models.snapshot import fetch
logging.basicConfig(level=logging.INFO)
try:
    snapshot = fetch(sys.argv[1], **json.loads(sys.argv[2]))
    print(json.dumps([str(snapshot.directory), snapshot.revision, str(snapshot.gguf)]))
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
"""


@dataclass
class Hub:
    """A repository at a time on `server`, as huggingface_hub expects it."""

    server: Any

    def publish(self, repo: str, files: dict[str, bytes]) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": sha(data)}
            for name, data in files.items()
        ]
        info = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        for revision in ("main", COMMIT):
            api = f"/api/models/{repo}"
            self.server.put(f"{api}/revision/{revision}", json.dumps(info).encode())
            self.server.put(f"{api}/tree/{revision}", json.dumps(entries).encode())
        for name, data in files.items():
            path = f"/{repo}/resolve/{COMMIT}/{name}"
            self.server.put(path, data, ETag=f'"{sha(data)}"', X_Repo_Commit=COMMIT)

    def refuse(self, repo: str, status: int, code: str) -> None:
        path = f"/api/models/{repo}/revision/main"
        self.server.put(path, b"{}", status, X_Error_Code=code, X_Error_Message=code)

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        paths = (seen.path for seen in self.server.seen if seen.method == "GET")
        return {path.partition(f"/resolve/{COMMIT}/")[2] for path in paths if "/resolve/" in path}


def sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(file_server: Any) -> Hub:
    return Hub(file_server)


Fetch = Callable[..., Any]


@pytest.fixture
def fetch(file_server: Any, tmp_path: Path) -> Fetch:
    """Runs fetch(model, **options) in a process of its own: its result, or {"error": words}."""

    def run(model: str, environment: dict[str, str] | None = None, **options: Any) -> Any:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        variables = {"HF_ENDPOINT": file_server.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
        result = subprocess.run(
            [sys.executable, "-c", FETCH, model, json.dumps(options)],
            env=clean | variables | (environment or {}),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        run.stderr = result.stderr  # type: ignore[attr-defined]
        return json.loads(result.stdout)

    return run


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_a_model_comes_once_and_without_what_is_not_needed(
    hub: Hub, fetch: Fetch, single: Path, sharded: Path
) -> None:
    model = contents(sharded)
    rest = {"consolidated.safetensors": b"again", "pytorch_model.bin": b"pickle", "onnx/config.json": b"{}"}
    hub.publish("org/tiny", model | rest | {"README.md": b"#", "tokenizer.json": b"{}"})

    directory, revision, gguf = fetch("org/tiny")
    assert contents(Path(directory)) == model | {"tokenizer.json": b"{}"}
    assert (revision, gguf) == (COMMIT, "None")
    assert "here after" in fetch.stderr  # type: ignore[attr-defined]
    assert "%|" not in fetch.stderr  # type: ignore[attr-defined]  # no bars where nobody watches

    hub.server.seen.clear()
    assert fetch("org/tiny")[0] == directory
    assert not hub.fetched()

    hub.server.seen.clear()
    assert fetch("org/tiny", {"HF_HUB_OFFLINE": "1"})[0] == directory
    assert not hub.server.seen


def test_without_weights(hub: Hub, fetch: Fetch, single: Path) -> None:
    hub.publish("org/tiny", contents(single))
    directory, *_ = fetch("org/tiny", weights=False)
    assert set(contents(Path(directory))) == {"config.json", "generation_config.json"}
    offline = fetch("org/tiny", {"HF_HUB_OFFLINE": "1"})
    assert "is not wholly in the cache" in offline["error"]
    assert "HF_HUB_OFFLINE is set" in offline["error"]


def test_progress_is_shown_when_asked(hub: Hub, fetch: Fetch, single: Path) -> None:
    hub.publish("org/tiny", contents(single))
    fetch("org/tiny", progress=True)
    assert "100%" in fetch.stderr  # type: ignore[attr-defined]


def test_an_interrupted_download_resumes(hub: Hub, fetch: Fetch) -> None:
    weights = bytes(range(256)) * 100_000  # 25 MB: more than two of huggingface_hub's chunks
    hub.publish("org/tiny", {"config.json": b"{}", "model.safetensors": weights})
    fetch("org/tiny", weights=False)
    hub.server.cuts = [22_000_000]
    directory, *_ = fetch("org/tiny")
    assert (Path(directory) / "model.safetensors").read_bytes() == weights
    ranges = hub.server.ranges(f"/org/tiny/resolve/{COMMIT}/model.safetensors")
    assert any(asked and not asked.startswith("bytes=0-") for asked in ranges), ranges


def test_a_gguf_in_a_repository(hub: Hub, fetch: Fetch) -> None:
    hub.publish("org/tiny", {"q4/tiny.Q4_0.gguf": b"GGUF", "q8/tiny.Q8_0.gguf": b"GGUF", "README.md": b"#"})
    directory, revision, gguf = fetch("org/tiny/q4/tiny.Q4_0.gguf")
    assert Path(gguf).read_bytes() == b"GGUF"
    assert (Path(directory), revision) == (Path(gguf).parent, COMMIT)
    assert hub.fetched() == {"q4/tiny.Q4_0.gguf"}


@pytest.mark.parametrize(
    ("files", "model", "message"),
    [
        (["a.gguf", "b.gguf"], "org/tiny", "name one of its GGUF files: org/tiny/a.gguf, org/tiny/b.gguf"),
        (["config.json", "pytorch_model.bin"], "org/tiny", "only pickled weights"),
        (["config.json"], "org/tiny", "has no model.safetensors"),
        (["a.gguf"], "org/tiny/c.gguf", "has no c.gguf; name one of its GGUF files: org/tiny/a.gguf"),
    ],
)
def test_repositories_without_weights_to_load(
    files: list[str], model: str, message: str, hub: Hub, fetch: Fetch
) -> None:
    hub.publish("org/tiny", dict.fromkeys(files, b"{}"))
    assert message in fetch(model)["error"]
    assert not [name for name in hub.fetched() if name.endswith((".bin", ".gguf"))]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "is gated: accept its terms on its page, and set HF_TOKEN"),
        (401, "GatedRepo", "is gated: accept its terms on its page, and set HF_TOKEN"),
        (401, "RepoNotFound", "check the id; if it is private, set HF_TOKEN"),
        (404, "RevisionNotFound", "has no branch, tag or commit 'main'"),
    ],
)
def test_refusals_say_what_to_do(status: int, code: str, message: str, hub: Hub, fetch: Fetch) -> None:
    hub.refuse("org/tiny", status, code)
    assert message in fetch("org/tiny")["error"]


def test_the_token_is_sent(hub: Hub, fetch: Fetch, single: Path) -> None:
    hub.publish("org/tiny", contents(single))
    fetch("org/tiny", {"HF_TOKEN": "hf_secret"}, weights=False)
    asked = [seen for seen in hub.server.seen if "/org/tiny/" in seen.path]
    assert {seen.headers.get("authorization") for seen in asked} == {"Bearer hf_secret"}, asked


def test_no_hub(hub: Hub, fetch: Fetch) -> None:
    hub.server.stop()
    message = fetch("org/tiny")["error"]
    assert f"{hub.server.url} does not answer" in message
