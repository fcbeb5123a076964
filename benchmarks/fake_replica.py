"""A model server without a model: streams tokens at a pace, each stamped with when it was sent.

As in a real server, the tokens of an engine's step leave together. Streams are dealt to a number of engines,
whose steps are spread evenly over the interval: one is a single large batch, several are as many replicas
behind one address. CLOCK_MONOTONIC is one clock for all processes of a machine, so a reader there can tell
how long a token was under way. It speaks HTTP by hand and writes to sockets directly, so that most of a
measuring machine is left to what is measured.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

import msgspec

HOST = "127.0.0.1"
PATH = "/v1/completions"
FAR_AWAY = 3600.0  # seconds: "stream, but say nothing more"

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_DONE = b"data: [DONE]\n\n"


class Request(msgspec.Struct):
    max_tokens: int
    interval: float  # seconds between tokens; 0: all at once
    engines: int = 1


class Engine:
    """Writes the next token of each of its streams, every interval."""

    def __init__(self, interval: float, phase: float) -> None:
        self._streams: dict[Replica, None] = {}
        self._interval = interval
        self._due = asyncio.get_running_loop().time() + phase
        self._wait()

    def add(self, stream: "Replica") -> None:
        self._streams[stream] = None

    def remove(self, stream: "Replica") -> None:
        self._streams.pop(stream, None)

    def _step(self) -> None:
        for stream in list(self._streams):
            if not stream.token():
                self.remove(stream)
        self._wait()

    def _wait(self) -> None:
        self._due += self._interval
        asyncio.get_running_loop().call_at(self._due, self._step)


_engines: dict[tuple[float, int], Iterator[Engine]] = {}


def _next_engine(interval: float, count: int) -> Engine:
    """In turn among those with this pace."""
    if (interval, count) not in _engines:
        engines = [Engine(interval, interval * index / count) for index in range(count)]
        _engines[interval, count] = itertools.cycle(engines)
    return next(_engines[interval, count])


class Replica(asyncio.Protocol):
    """One connection: answers one request after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._left = 0
        self._engine: Engine | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._descriptor = transport.get_extra_info("socket").fileno()

    def connection_lost(self, _: Exception | None) -> None:
        if self._engine is not None:
            self._engine.remove(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and len(body) >= _content_length(head):
            self._received = b""
            self._answer(head, body)

    def token(self) -> bool:
        """Writes one; False after the last."""
        self._left -= 1
        token = _token() if self._left else _token() + _chunk(_DONE) + b"0\r\n\r\n"
        with suppress(OSError):  # the loop will notice
            os.write(self._descriptor, token)
        return self._left > 0

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST"):
            self._stream(msgspec.json.decode(body, type=Request))
        else:
            self._transport.write(_OK if head.startswith(b"GET /health/") else _NOT_FOUND)

    def _stream(self, asked: Request) -> None:
        if not asked.interval:
            tokens = _token() * asked.max_tokens
            os.write(self._descriptor, _STREAM + tokens + _chunk(_DONE) + b"0\r\n\r\n")
            return
        self._left = asked.max_tokens
        os.write(self._descriptor, _STREAM)
        if self.token() and asked.interval < FAR_AWAY:
            self._engine = _next_engine(asked.interval, asked.engines)
            self._engine.add(self)


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def _token() -> bytes:
    return _chunk(b'data: {"sent":%.6f}\n\n' % time.monotonic())


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def serve(parent: Connection) -> None:
    """Tells `parent` the port, then serves until cancelled."""
    server = await asyncio.get_running_loop().create_server(Replica, HOST, 0, backlog=4096)
    parent.send(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


def main(parent: Connection) -> None:
    """The child process's entry point."""
    import uvloop

    with suppress(KeyboardInterrupt):
        uvloop.run(serve(parent))
