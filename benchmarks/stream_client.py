"""A client of the fake replica that costs little: it times tokens as they arrive, and parses nothing else."""

import asyncio
import re
import time
from dataclasses import dataclass, field

import msgspec

from fake_replica import HOST, PATH

_SENT = re.compile(rb'"sent":([0-9.]+)}')
_END = b"0\r\n\r\n"


@dataclass
class Samples:
    """Times in seconds."""

    first_token: list[float] = field(default_factory=list)  # from sending the request to its arrival
    transit: list[float] = field(default_factory=list)  # of each token, from the replica's write to arrival
    requests: int = 0
    errors: list[str] = field(default_factory=list)


class Stream(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._samples = Samples()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._started = 0.0
        self._waiting = False  # for the first token
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionResetError(str(exc or "closed")))

    async def request(self, data: bytes, samples: Samples) -> None:
        """Raises OSError."""
        self._samples, self._waiting, self._rest = samples, True, b""
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
        sent = [float(stamp) for stamp in _SENT.findall(data)]
        if sent and self._waiting:
            self._waiting = False
            self._samples.first_token.append(now - self._started)
        self._samples.transit += [now - moment for moment in sent]
        self._rest = b"" if data.endswith(b"\n") else data[data.rfind(b"\n") + 1 :]
        if data.endswith(_END) and not self._done.done():
            self._done.set_result(None)


class Client:
    """Open-loop load on one port; connections are used again."""

    def __init__(self, port: int, *, tokens: int, interval: float) -> None:
        self._port = port
        self._idle: list[Stream] = []
        body = msgspec.json.encode({"max_tokens": tokens, "interval": interval})
        head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def run(self, samples: Samples, *, rate: float, count: int) -> None:
        """Requests start at this rate, however long the earlier ones take."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for index in range(count):
                await asyncio.sleep(max(0.0, start + index / rate - time.monotonic()))
                group.create_task(self._one(samples))

    async def _one(self, samples: Samples) -> None:
        samples.requests += 1
        try:
            stream = self._idle.pop() if self._idle else await self._connect()
            await stream.request(self._request, samples)
            self._idle.append(stream)
        except OSError as error:
            samples.errors.append(repr(error))

    async def _connect(self) -> Stream:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, HOST, self._port)
        return stream
