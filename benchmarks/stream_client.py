"""A client of the fake replica that costs little: it times tokens as they arrive, and parses nothing else.

Only a share of its streams is timed. The others are sent all the same, but it reads each in one go, after its
end: so the client is not what limits.
"""

import asyncio
import random
import re
import time
from dataclasses import dataclass, field

import msgspec

from fake_replica import HOST, PATH, Request

_SENT = re.compile(rb'"sent":([0-9.]+)}')
_END = b"0\r\n\r\n"
TIMED = 10  # of so many streams one
LATE = 0.1  # seconds after its end that an untimed stream is read


@dataclass
class Samples:
    """Times in seconds, of what arrives from `opens` to `closes`."""

    opens: float = 0.0
    closes: float = float("inf")
    first_token: list[float] = field(default_factory=list)  # from sending the request to its arrival
    transit: list[float] = field(default_factory=list)  # of each token, from the replica's write to arrival
    requests: int = 0
    errors: list[str] = field(default_factory=list)


class Stream(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._samples: Samples | None = None  # None: this one is not timed
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._started = 0.0
        self._waiting = False  # for the first token
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionResetError(str(exc or "closed")))

    async def timed(self, data: bytes, samples: Samples) -> None:
        """Raises OSError."""
        self._samples, self._waiting = samples, True
        await self._request(data)

    async def untimed(self, data: bytes, seconds: float) -> None:
        """Reads after so many seconds. Raises OSError."""
        self._samples = None
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._transport.resume_reading)
        await self._request(data)

    async def _request(self, data: bytes) -> None:
        self._rest = b""
        self._done = asyncio.get_running_loop().create_future()
        self._started = time.monotonic()
        self._transport.write(data)
        await self._done

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self._rest + data
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(ConnectionError(data[:200].decode(errors="replace")))
            self._transport.abort()
            return
        if self._samples is not None:
            self._time(data, now, self._samples)
        self._rest = data[data.rfind(b"}") + 1 :]  # what follows the last whole token
        if data.endswith(_END) and not self._done.done():
            self._done.set_result(None)

    def _time(self, data: bytes, now: float, samples: Samples) -> None:
        sent = [float(stamp) for stamp in _SENT.findall(data)]
        counts = samples.opens <= now < samples.closes
        if sent and self._waiting:
            self._waiting = False
            if counts:
                samples.first_token.append(now - self._started)
        if counts:
            samples.transit += [now - moment for moment in sent]


class Client:
    """Open-loop load on one port; connections are used again."""

    def __init__(self, port: int, request: Request) -> None:
        self._port = port
        self._idle: list[Stream] = []
        self._stream_seconds = request.max_tokens * request.interval
        body = msgspec.json.encode(request)
        head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def run(self, samples: Samples, *, rate: float, count: int) -> None:
        """Requests start at this rate, however long the earlier ones take.

        Each starts at a random moment of its slot: an even pace could keep step with the engines'.
        """
        start, rng = time.monotonic(), random.Random(0)
        async with asyncio.TaskGroup() as group:
            for index in range(count):
                await asyncio.sleep(max(0.0, start + (index + rng.random()) / rate - time.monotonic()))
                group.create_task(self._one(samples, timed=not index % TIMED))

    async def _one(self, samples: Samples, *, timed: bool) -> None:
        samples.requests += 1
        try:
            stream = self._idle.pop() if self._idle else await self._connect()
            if timed:
                await stream.timed(self._request, samples)
            else:
                await stream.untimed(self._request, self._stream_seconds + LATE)
            self._idle.append(stream)
        except OSError as error:
            samples.errors.append(repr(error))

    async def _connect(self) -> Stream:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, HOST, self._port)
        return stream
