"""A model server without a model: streams tokens at a fixed interval, each stamped with when it was sent.

CLOCK_MONOTONIC is one clock for all processes of a machine, so a reader there can tell how long a token
was under way. It speaks HTTP by hand, so that most of a measuring machine is left to what is measured.
"""

import asyncio
import time
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
    interval: float  # seconds between tokens


class Replica(asyncio.Protocol):
    """One connection: answers one request after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, _: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and len(body) >= _content_length(head):
            self._received = b""
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST"):
            asked = msgspec.json.decode(body, type=Request)
            self._transport.write(_STREAM)
            self._token(asked.max_tokens, asked.interval, self._loop.time())
        else:
            self._transport.write(_OK if head.startswith(b"GET /health/") else _NOT_FOUND)

    def _token(self, left: int, interval: float, due: float) -> None:
        if not left:
            self._transport.write(_chunk(_DONE) + b"0\r\n\r\n")
            return
        self._transport.write(_chunk(b'data: {"sent":%.6f}\n\n' % time.monotonic()))
        due += interval if left > 1 else 0.0
        self._next = self._loop.call_at(due, self._token, left - 1, interval, due)


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


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
