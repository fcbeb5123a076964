"""Continuous load on one address, with marks around what is done to the cluster meanwhile.

    with Load(address, model, key) as load:
        with load.mark("scale") as during:
            ...
        assert during.requests and not during.failed

A quarter of the clients each: HTTP and gRPC, in one answer and streamed. A client sends its next request
shortly after the last one's end, and tries nothing again: what fails once counts.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import aiohttp
import grpc

from .endpoint import SECONDS, Address, FailedError, GrpcEndpoint, HttpEndpoint

PAUSE = 2.0  # seconds between a client's requests


@dataclass(frozen=True)
class Outcome:
    """One request's; times are of time.monotonic()."""

    kind: str
    began: float
    ended: float
    streaming: bool  # a part of the answer had come
    error: str = ""

    def __str__(self) -> str:
        state = "streaming" if self.streaming else "unanswered"
        return f"{self.kind}, {state} after {self.ended - self.began:.2f} s: {self.error or 'complete'}"


@dataclass
class Mark:
    """What ended between a change's beginning and the first requests wholly after it."""

    name: str
    began: float
    requests: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.requests if outcome.error]

    def __str__(self) -> str:
        slowest = max((outcome.ended - outcome.began for outcome in self.requests), default=0.0)
        return (
            f"{self.name}: {len(self.failed)} of {len(self.requests)} requests failed"
            f" in {self.seconds:.0f} s, the slowest took {slowest:.1f} s"
        )


Ask = Callable[[], AsyncIterator[str]]


class Load:
    """Runs in a thread of its own from __enter__ to __exit__. `key` may be changed at any time."""

    def __init__(self, address: Address, model: str, key: str, *, clients: int = 16) -> None:
        self.key = key
        self.outcomes: list[Outcome] = []
        self._address = address
        self._model = model
        self._count = clients
        self._last: dict[int, float] = {}  # client to when its last finished request began
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> "Load":
        self._thread.start()
        self.settle()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def mark(self, name: str) -> Iterator[Mark]:
        mark = Mark(name, time.monotonic())
        before = len(self.outcomes)
        try:
            yield mark
            self.settle()
        finally:
            mark.requests = self.outcomes[before:]
            mark.seconds = time.monotonic() - mark.began
            print(mark, *mark.failed[:8], sep="\n    ")

    def settle(self) -> None:
        """Returns when every client has finished a request that began after this was called."""
        since = time.monotonic()
        deadline = since + 2 * SECONDS
        while sum(began > since for began in list(self._last.values())) < self._count:
            assert time.monotonic() < deadline, "the load stands still"
            assert self._thread.is_alive(), "the load has ended"
            time.sleep(0.05)

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._client(n)) for n in range(self._count)]
            await asyncio.gather(*clients)

    @contextlib.asynccontextmanager
    async def _client(self, number: int) -> AsyncIterator[Awaitable[None]]:
        """A coroutine to be awaited, with connections of its own."""
        stream = number % 4 >= 2
        kind = f"{'gRPC' if number % 2 else 'HTTP'}{' stream' * stream}"
        endpoint: HttpEndpoint | GrpcEndpoint
        if number % 2:
            endpoint = GrpcEndpoint(self._address)
        else:
            # Every other client keeps its connection, the others open one for each request.
            endpoint = HttpEndpoint(self._address, self._model, keep=number % 8 < 4)
        async with contextlib.aclosing(endpoint):
            yield self._repeat(number, kind, lambda: endpoint.ask(self.key, stream=stream))

    async def _repeat(self, number: int, kind: str, ask: Ask) -> None:
        await asyncio.sleep(PAUSE * number / self._count)
        while not self._stop.is_set():
            outcome = await _outcome(kind, ask)
            self.outcomes.append(outcome)
            self._last[number] = outcome.began
            await asyncio.sleep(PAUSE)


async def _outcome(kind: str, ask: Ask) -> Outcome:
    began = time.monotonic()
    text, error, streaming = "", "", False
    try:
        async for part in ask():
            streaming = True
            text += part
        if not text:
            raise FailedError("an empty answer")
    except (FailedError, aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    except grpc.aio.AioRpcError as failure:
        error = f"{failure.code().name}: {failure.details()}"
    return Outcome(kind, began, time.monotonic(), streaming, error)
