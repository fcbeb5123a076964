"""Checkpoints as transformers writes them, and a web server that can break off."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Answer:
    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True  # whether the server can resume


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class FileServer:
    """Serves `answers` by path on loopback; a GET longer than `cuts[0]` bytes breaks off there, once."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.cuts: list[int] = []
        self.seen: list[Seen] = []
        handler = type("Handler", (_Handler,), {"files": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def put(self, path: str, content: bytes = b"", status: int = 200, **headers: str) -> Answer:
        """Header names with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = Answer(content, status, named)
        return self.answers[path]

    def stop(self) -> None:
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()

    def ranges(self, path: str) -> list[str | None]:
        """The Range header of each GET of `path`."""
        return [seen.headers.get("range") for seen in self.seen if (seen.method, seen.path) == ("GET", path)]


class _Handler(BaseHTTPRequestHandler):
    files: FileServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.files.seen.append(Seen(self.command, self.path, headers))
        path = self.path.partition("?")[0]
        answer = self.files.answers.get(path, Answer(status=404))
        status, content, extra = _ranged(answer, headers)
        self.send_response(status)
        for name, value in (answer.headers | extra).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self._send(content)

    def _send(self, content: bytes) -> None:
        if self.files.cuts and self.files.cuts[0] < len(content):
            self.close_connection = True
            content = content[: self.files.cuts.pop(0)]
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


def _ranged(answer: Answer, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    etag = answer.headers.get("ETag")
    if etag and headers.get("if-none-match") == etag:
        return 304, b"", {}
    wanted = headers.get("range")
    same = headers.get("if-range") in (None, etag)
    if not wanted or not answer.ranges or not same or answer.status != 200:
        return answer.status, answer.content, {}
    start = int(wanted.removeprefix("bytes=").partition("-")[0])
    size = len(answer.content)
    if start >= size:
        return 416, b"", {"Content-Range": f"bytes */{size}"}
    return 206, answer.content[start:], {"Content-Range": f"bytes {start}-{size - 1}/{size}"}


@pytest.fixture
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def tiny_llama() -> Any:
    """A random Llama of transformers: 2 layers, hidden 64, 4 heads, 2 KV heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def single(tiny_llama: Any, tmp_path: Path) -> Path:
    """`tiny_llama` in one safetensors file."""
    tiny_llama.save_pretrained(tmp_path / "single")
    return tmp_path / "single"


@pytest.fixture
def sharded(tiny_llama: Any, tmp_path: Path) -> Path:
    """`tiny_llama` in several safetensors files with an index."""
    tiny_llama.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    return tmp_path / "sharded"
