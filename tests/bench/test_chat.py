"""`mii chat`: in a pipe, and in a terminal (a pseudo-terminal, so that Ctrl-C is the real one)."""

import io
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mii.cli import main

DEADLINE = 20.0  # seconds


def in_a_pipe(monkeypatch: pytest.MonkeyPatch, text: str, *argv: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return main(["chat", *argv])


def test_a_pipe_gets_only_the_answer(
    server_in_thread: Any, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_a_pipe(monkeypatch, "hi\n", server_in_thread.url, "--max-tokens", "3") == 0
    captured = capsys.readouterr()
    assert captured.out == "word word word \n"
    assert captured.err == ""
    assert script.requests[0]["messages"] == [{"role": "user", "content": "hi"}]
    assert script.requests[0]["model"] == "fake/model"


def test_options_reach_the_server(
    server_in_thread: Any, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "2", "--model", "other"]
    assert in_a_pipe(monkeypatch, "hi", server_in_thread.url, *options) == 0
    body = script.requests[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.5, 2, "other")


def test_without_options_the_servers_defaults_hold(
    server_in_thread: Any, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_a_pipe(monkeypatch, "hi", server_in_thread.url + "/v1/") == 0
    assert set(script.requests[0]) == {"model", "messages", "stream", "stream_options"}


def test_a_failed_request_in_a_pipe(
    server_in_thread: Any, script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script.fail = lambda index: True
    assert in_a_pipe(monkeypatch, "hi", server_in_thread.url) == 1
    assert "scripted failure" in " ".join(capsys.readouterr().err.split())


def test_nothing_listens(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_a_pipe(monkeypatch, "hi", f"http://127.0.0.1:{unused_tcp_port}") == 1
    assert "nothing answers" in capsys.readouterr().err


def test_an_empty_pipe_is_an_error(
    server_in_thread: Any, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_a_pipe(monkeypatch, " \n", server_in_thread.url) == 1
    assert script.requests == []


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, *argv: str) -> None:
        self.master, self.slave = (
            os.openpty()
        )  # the slave stays open, or reading fails until the child opens it
        # The first terminal that a session's leader opens becomes its controlling one: ^C then interrupts it.
        shell = 'tty=$1; shift; exec "$@" <$tty >$tty 2>&1'
        command = ["sh", "-c", shell, "sh", os.ttyname(self.slave), sys.executable, "-m", "mii.cli", *argv]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen(command, start_new_session=True, env=environment)
        self.output = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> None:
        """Waits for `text` in what is printed from now on, and forgets what came before it."""
        assert self.shows(text, DEADLINE), f"{text!r} did not appear; the terminal shows {self.output!r}"

    def shows(self, text: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            self.output += os.read(self.master, 65536).decode(errors="replace")
        self.output = self.output.partition(text)[2]
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminal(server_in_thread: Any) -> Iterator[Terminal]:
    started = Terminal("chat", server_in_thread.url, "--max-tokens", "5")
    yield started
    started.close()


def test_a_conversation(terminal: Terminal, script: Any) -> None:
    terminal.expect("> ")
    terminal.type("first\n")
    terminal.expect("word word word word word")
    terminal.expect("5 tokens")
    terminal.expect("> ")
    terminal.type("second\n")
    terminal.expect("5 tokens")
    assert [m["role"] for m in script.requests[1]["messages"]] == ["user", "assistant", "user"]
    terminal.type("/reset\n")
    terminal.expect("forgotten")
    terminal.type("third\n")
    terminal.expect("5 tokens")
    assert [m["content"] for m in script.requests[2]["messages"]] == ["third"]
    terminal.type("/nonsense\n")
    terminal.expect("not a command")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.process.wait(DEADLINE) == 0


def test_ctrl_c_stops_the_answer_and_nothing_else(terminal: Terminal, script: Any) -> None:
    script.endless, script.gap = True, 0.01
    terminal.expect("> ")
    terminal.type("hello\n")
    terminal.expect("word word word")
    terminal.type("\x03")
    terminal.expect("stopped")
    deadline = time.monotonic() + DEADLINE
    while script.cancelled == 0:
        assert time.monotonic() < deadline, "the request was not cancelled"
        time.sleep(0.005)
    script.endless = False
    terminal.expect("> ")
    # At the prompt it only begins a new line. (One that comes before readline listens shows at the next key.)
    assert any(terminal.type("\x03") or terminal.shows("> ", 2.0) for _ in range(10))
    terminal.type("again\n")
    terminal.expect("5 tokens")
    partial = script.requests[1]["messages"][1]
    assert partial["role"] == "assistant"
    assert partial["content"].startswith("word word word")
    terminal.type("/quit\n")
    assert terminal.process.wait(DEADLINE) == 0


def test_a_failed_turn_is_not_remembered(terminal: Terminal, script: Any) -> None:
    script.fail = lambda index: index == 0
    terminal.expect("> ")
    terminal.type("bad\n")
    terminal.expect("scripted failure")
    terminal.expect("> ")
    terminal.type("good\n")
    terminal.expect("5 tokens")
    assert [m["content"] for m in script.requests[1]["messages"]] == ["good"]


def test_control_characters_do_not_reach_the_terminal(terminal: Terminal, script: Any) -> None:
    script.text = "\x1b[2Jred\x07 "
    terminal.expect("> ")
    terminal.type("hello\n")
    terminal.expect("[2Jred ")
    assert "\x07" not in terminal.output
    assert "\x1b[2J" not in terminal.output
