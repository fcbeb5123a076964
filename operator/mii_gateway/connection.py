"""One HTTP/1.1 connection to a replica: sends a request, reads the head of the answer, then passes bytes on.

From the head on, what arrives goes to a sink in the same callback, with no stream, task or parser between:
that is what a token costs the gateway.
"""

import asyncio
from collections.abc import Callable

from mii_gateway.framing import Framing
from mii_gateway.wire import LONGEST_HEAD, Head, framing, parse_head


class Broken(ConnectionError):  # noqa: N818 - it reads as what it is
    """The replica closed the connection or said what is no HTTP."""


class Connection(asyncio.Protocol):
    """For one request at a time."""

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._begun: asyncio.Future[None] | None = None  # the head is there, and a first piece or the end
        self._sink: Callable[[bytes], None] | None = None
        self._method = ""
        self._stripped = False
        self._received = b""  # of the head, then of the body before there is a sink
        self.head: Head | None = None
        self.framing: Framing | None = None
        self.done: asyncio.Future[None] = self._loop.create_future()
        self.lost = False

    async def send(self, method: str, data: bytes, *, stripped: bool) -> bytes:
        """Sends a whole request; returns the body's first piece, empty if it has none. Raises Broken."""
        assert self._begun is None, "the last request has not been finished"
        self._method, self._stripped, self._received = method, stripped, b""
        self.head = self.framing = None
        self.done = self._loop.create_future()
        self._begun = self._loop.create_future()
        if self.lost:
            raise Broken("closed while it was idle")
        self._transport.write(data)
        await self._begun
        first, self._received = self._received, b""
        return first

    def pass_on(self, sink: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Gives the rest of the body to `sink`. The future ends with it, or with Broken."""
        if self._received:
            sink(self._received)
        self._sink = sink
        return self.done

    @property
    def reusable(self) -> bool:
        """Whether the last answer is complete and the replica keeps the connection."""
        if self.lost or self.head is None or self.framing is None:
            return False
        return self.head.keeps_open and self.framing.ended and not self.framing.surplus

    def rest(self) -> None:
        """The request is over, the connection waits for another. Whatever comes meanwhile ends it."""
        self._begun = self._sink = None

    def close(self) -> None:
        """Now, which is what tells the replica to stop."""
        self._sink = None
        self._transport.abort()

    def pause(self) -> None:
        if not self.lost:
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self.lost:
            self._transport.resume_reading()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a TCP connection's

    def data_received(self, data: bytes) -> None:
        if self._begun is None:  # nobody has asked for anything
            self._transport.abort()
            return
        if self.framing is None:
            self._read_head(data)
            return
        try:
            data = self.framing.feed(data)
        except ValueError as error:
            self._break(str(error))
            return
        if self._sink is not None:
            if data:
                self._sink(data)
        else:
            self._received += data
            self._begin()
        if self.framing.ended:
            self._end()

    def eof_received(self) -> bool:
        if self.framing is not None:
            self.framing.closed()
            if self.framing.ended:
                self._begin()
                self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._break(str(exc) if exc else "it closed the connection")
        self._on_lost(self)

    def _read_head(self, data: bytes) -> None:
        self._received += data
        raw, found, rest = self._received.partition(b"\r\n\r\n")
        try:
            if found:
                self._got_head(parse_head(raw), rest)
            elif len(raw) > LONGEST_HEAD:
                raise ValueError("its head is too long")
        except ValueError as error:
            self._break(str(error))

    def _got_head(self, head: Head, rest: bytes) -> None:
        """Raises ValueError if it contradicts itself."""
        self._received = b""
        if not head.informational:
            self.head, self.framing = head, framing(self._method, head, stripped=self._stripped)
        if rest or self.framing:
            self.data_received(rest)

    def _begin(self) -> None:
        assert self.framing is not None
        ready = self._received or self.framing.ended
        if ready and self._begun is not None and not self._begun.done():
            self._begun.set_result(None)

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _break(self, why: str) -> None:
        if self._begun is not None and not self._begun.done():
            self._begun.set_exception(Broken(why))
        elif not self.done.done():
            self.done.set_exception(Broken(why))
            self.done.exception()  # it may be that nobody asks any more
        if not self.lost:
            self._transport.abort()
