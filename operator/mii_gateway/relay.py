"""Passes a replica's answer on to the client, byte for byte and as it comes."""

import asyncio
import socket
import struct

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mii_gateway.errors import Refusal, replica_silent, stream_cut
from mii_gateway.headers import REQUEST_ID, end_to_end
from mii_gateway.record import Record

TIMER_SLACK = 0.1  # of the idle timeout, by which it may come late: a timer is not moved for every piece
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


class StreamCut(Exception):  # noqa: N818 - it reads as what it is
    """The replica's answer stopped before its end."""


class Relay:
    """One answer on its way, from its first byte on."""

    def __init__(
        self, request: web.Request, upstream: aiohttp.ClientResponse, record: Record, *, idle_timeout: float
    ) -> None:
        self._request = request
        self._upstream = upstream
        self._record = record
        self._idle_timeout = idle_timeout
        self._tail = b""  # the last piece that the client got
        self.response = web.StreamResponse(
            status=upstream.status, reason=upstream.reason, headers=end_to_end(upstream.headers)
        )
        self.response.headers.setdefault(REQUEST_ID, record.request_id)

    async def run(self, first: bytes) -> bool:
        """Sends everything, or makes sure that the client notices that it is not everything.

        Returns False if the replica broke the connection. Raises ConnectionError if the client did.
        """
        self._record.status = str(self._upstream.status)
        try:
            async with asyncio.timeout(self._idle_timeout) as limit:
                await self.response.prepare(self._request)
                await self._copy(first, limit)
                await self.response.write_eof()
        except StreamCut as cut:
            await self._fail(stream_cut(self._replica, str(cut)))
            return False
        except TimeoutError:
            await self._stalled()
        return True

    async def _copy(self, chunk: bytes, limit: asyncio.Timeout) -> None:
        """The hot path. `write` waits while the client's buffer is full, which stops reading upstream."""
        read, write, record = self._upstream.content.readany, self.response.write, self._record
        now, slack = asyncio.get_running_loop().time, self._idle_timeout * TIMER_SLACK
        record.first_byte()
        postponed = 0.0
        while chunk:
            await write(chunk)
            self._tail = chunk
            record.bytes_out += len(chunk)
            record.output_tokens += chunk.count(b"\n\n")  # events
            if (moment := now()) > postponed + slack:
                postponed = moment
                limit.reschedule(moment + slack + self._idle_timeout)
            try:
                chunk = await read()
            except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
                raise StreamCut(str(error) or type(error).__name__) from error

    async def _stalled(self) -> None:
        """Nothing moved for the idle timeout: the client's fault if its buffer is full."""
        transport = self._request.transport
        if transport is None or transport.get_write_buffer_size():
            self._record.status, self._record.error = "499", "the client stopped reading"
            self._abort()
        else:
            await self._fail(replica_silent(self._replica, self._idle_timeout))

    async def _fail(self, refusal: Refusal) -> None:
        """Ends an event stream with an error event; of anything else the connection breaks."""
        self._record.status, self._record.error = str(refusal.status), refusal.message
        if not self._is_event_stream():
            return self._abort()
        begun = not self._tail.endswith((b"\n\n", b"\r\n\r\n"))
        try:
            async with asyncio.timeout(self._idle_timeout):
                await self.response.write_eof(b"\n\n" * begun + refusal.event())
        except TimeoutError:
            self._abort()

    def _is_event_stream(self) -> bool:
        """Whether an event can still be added to the body."""
        headers = self.response.headers
        framed = "Content-Length" in headers or "Content-Encoding" in headers
        return not framed and headers.get("Content-Type", "").startswith("text/event-stream")

    def _abort(self) -> None:
        """A reset, because an orderly end would look like the end of a body without a length."""
        transport = self._request.transport
        if transport is None:
            return
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    @property
    def _replica(self) -> str:
        return self._record.replica or ""
