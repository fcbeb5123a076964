"""Passes a replica's answer on to the client, byte for byte and as it comes."""

import asyncio
import socket
import struct

from aiohttp import web

from mii_gateway import wire
from mii_gateway.connection import Broken, Connection
from mii_gateway.errors import Refusal, replica_silent, stream_cut
from mii_gateway.framing import LAST_CHUNK, Chunked, UntilClose, chunk
from mii_gateway.headers import REQUEST_ID, end_to_end
from mii_gateway.record import Record

HIGH_WATER = 2**16  # bytes that a client has not taken, from which the replica has to wait
LOOKS = 4  # at a stream per idle timeout
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\n\n\r\n", b"\r\n\r\n\r\n")  # plain and in a chunk
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


class Spliced(web.StreamResponse):
    """A response that has been written past aiohttp, which has nothing left to do."""

    def __init__(self, request: web.Request) -> None:
        super().__init__()
        self._keep_alive = request.keep_alive

    async def prepare(self, request: web.BaseRequest) -> None: ...

    async def write_eof(self, data: bytes = b"") -> None: ...


class Relay:
    """One answer on its way, from its first byte on."""

    def __init__(
        self, request: web.Request, connection: Connection, record: Record, *, idle_timeout: float
    ) -> None:
        assert connection.head is not None
        assert connection.framing is not None
        self._request = request
        self._connection = connection
        self._head = connection.head
        self._record = record
        self._idle_timeout = idle_timeout
        self._tail = b""  # the last piece that the client got
        self._draining: asyncio.Task[None] | None = None
        modern = request.version >= (1, 1)
        self._chunks = modern and isinstance(connection.framing, UntilClose)  # are the gateway's own
        self._chunked = self._chunks or (modern and isinstance(connection.framing, Chunked))
        self._until_close = not modern and isinstance(connection.framing, UntilClose | Chunked)
        self.response = Spliced(request)
        if self._until_close:
            self.response.force_close()

    async def run(self, first: bytes) -> bool:
        """Sends everything, or makes sure that the client notices that it is not everything.

        Returns False if the replica broke the connection. Raises ConnectionError if the client did.
        """
        self._record.status = str(self._head.status)
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client left before its answer")
        self._transport = transport
        try:
            self._begin(first)
            await self._end(self._connection.pass_on(self._write))
        except Broken as cut:
            self._fail(stream_cut(self._replica, str(cut)))
            return False
        except TimeoutError:
            self._stalled()
        except asyncio.CancelledError:
            raise
        except Exception:
            self._abort()
            raise
        finally:
            if self._draining is not None:
                self._draining.cancel()
            if not self._is_event_stream():
                self._record.output_tokens = self._record.bytes_out // 4
        return True

    def _begin(self, first: bytes) -> None:
        """The head and the first piece, in one packet."""
        headers = end_to_end(self._head.headers)
        headers.setdefault(REQUEST_ID, self._record.request_id)
        if self._chunked:
            headers["Transfer-Encoding"] = "chunked"
        modern = self._request.version >= (1, 1)
        if modern != bool(self.response.keep_alive):  # not what the client's version means by itself
            headers["Connection"] = "keep-alive" if self.response.keep_alive else "close"
        head = wire.response_head(int(modern), self._head.status, self._head.reason, headers)
        self._write(first, head)
        self._record.first_byte()

    def _write(self, data: bytes, head: bytes = b"") -> None:
        """The hot path."""
        record = self._record
        record.bytes_out += len(data)
        record.output_tokens += data.count(b"\n\n")  # events
        self._tail = data
        if self._chunks and data:
            data = chunk(data)
        transport = self._transport
        transport.write(head + data if head else data)
        if transport.get_write_buffer_size() > HIGH_WATER and self._draining is None:
            self._connection.pause()
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Has the replica wait for the client."""
        await self._request.writer.drain()
        self._draining = None
        self._connection.resume()

    async def _end(self, done: asyncio.Future[None]) -> None:
        """Raises Broken, or TimeoutError when nothing has moved for the idle timeout."""
        moved, still = -1, 0
        while not done.done():
            await asyncio.wait({done}, timeout=self._idle_timeout / LOOKS)
            moved, before = self._record.bytes_out - self._transport.get_write_buffer_size(), moved
            still = still + 1 if moved == before else 0
            if still == LOOKS and not done.done():
                raise TimeoutError
        done.result()
        if self._chunks:
            self._transport.write(LAST_CHUNK)

    def _stalled(self) -> None:
        """The client's fault if its buffer is full."""
        if self._transport.get_write_buffer_size():
            self._record.status, self._record.error = "499", "the client stopped reading"
            self._abort()
        else:
            self._fail(replica_silent(self._replica, self._idle_timeout))

    def _fail(self, refusal: Refusal) -> None:
        """Ends an event stream with an error event; of anything else the connection breaks."""
        self._record.status, self._record.error = str(refusal.status), refusal.message
        framed = "Content-Length" in self._head.headers or "Content-Encoding" in self._head.headers
        if framed or not self._is_event_stream():
            return self._abort()
        event = b"\n\n" * (not self._tail.endswith(_EVENT_ENDS)) + refusal.event()
        self._transport.write(self._rest_of_chunk() + chunk(event) + LAST_CHUNK if self._chunked else event)
        return None

    def _rest_of_chunk(self) -> bytes:
        """Empty lines, which mean nothing between events, up to the length that the client was told."""
        framing = self._connection.framing
        left = framing.left if isinstance(framing, Chunked) else 0
        return b"\n" * (left - 2) + b"\r\n"[-left:] if left else b""

    def _is_event_stream(self) -> bool:
        return self._head.headers.get("Content-Type", "").startswith("text/event-stream")

    def _abort(self) -> None:
        """A reset, because an orderly end would look like the end of a body without a length."""
        connection: socket.socket = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    @property
    def _replica(self) -> str:
        return self._record.replica or ""
