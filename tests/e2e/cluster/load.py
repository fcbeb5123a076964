"""Continuous load on one address, with marks around what is done to the cluster meanwhile.

    with Load(address, model, key) as load:
        with load.mark("scale") as during:
            ...
        assert during.requests and not during.failed

A quarter of the clients each: HTTP and gRPC, in one answer and streamed. A client sends its next request
shortly after the last one's end, and nothing is ever tried again: what fails once counts.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc

from mii.server.proto import modelresponse_pb2 as pb
from mii.server.proto import modelresponse_pb2_grpc as pb_grpc

PAUSE = 1.0  # seconds between a client's requests
SECONDS = 90.0  # that a request may take: longer than the gateway keeps one waiting for a replica
SHORT, LONG = 4, 16  # tokens of an answer in one piece, of a streamed one


@dataclass(frozen=True)
class Address:
    """The Service's."""

    host: str
    http_port: int
    grpc_port: int


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


Part = str
Ask = Callable[[], AsyncIterator[Part]]


class Load:
    """Runs in a thread of its own from __enter__ to __exit__. `key` may be changed at any time."""

    def __init__(self, address: Address, model: str, key: str, *, clients: int = 8) -> None:
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
        """A coroutine to be awaited, with a connection of its own."""
        stream = number % 4 >= 2
        if number % 2:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            target = f"{self._address.host}:{self._address.grpc_port}"
            async with grpc.aio.insecure_channel(target, options=options) as channel:
                stub = pb_grpc.ModelResponseStub(channel)
                yield self._repeat(number, f"gRPC{' stream' * stream}", lambda: self._grpc(stub, stream))
        else:
            timeout = aiohttp.ClientTimeout(total=SECONDS)
            # Every other client keeps its connection, the others open one for each request.
            connector = aiohttp.TCPConnector(force_close=number % 8 >= 4)
            url = f"http://{self._address.host}:{self._address.http_port}"
            async with aiohttp.ClientSession(url, timeout=timeout, connector=connector) as session:
                yield self._repeat(number, f"HTTP{' stream' * stream}", lambda: self._http(session, stream))

    async def _repeat(self, number: int, kind: str, ask: Ask) -> None:
        await asyncio.sleep(PAUSE * number / self._count)
        while not self._stop.is_set():
            outcome = await _outcome(kind, ask)
            self.outcomes.append(outcome)
            self._last[number] = outcome.began
            await asyncio.sleep(PAUSE)

    async def _http(self, session: aiohttp.ClientSession, stream: bool) -> AsyncIterator[Part]:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": "Count from one to a hundred, in words."}],
            "max_tokens": LONG if stream else SHORT,
            "stream": stream,
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        async with session.post("/v1/chat/completions", json=body, headers=headers) as response:
            if response.status != 200:
                raise FailedError(f"{response.status} {await response.text()}")
            if not stream:
                answer = await response.json()
                yield answer["choices"][0]["message"]["content"]
                return
            done = False
            async for line in response.content:
                event = line.decode().removeprefix("data:").strip()
                done = done or event == "[DONE]"
                if event and not done:
                    yield _delta(json.loads(event))
            if not done:
                raise FailedError("the stream ended without [DONE]")

    async def _grpc(self, stub: Any, stream: bool) -> AsyncIterator[Part]:
        options = {"max_new_tokens": pb.Value(ivalue=LONG if stream else SHORT)}
        message = pb.MultiStringRequest(request=["One, two, three,"], query_kwargs=options)
        call = {"metadata": (("authorization", f"Bearer {self.key}"),), "timeout": SECONDS}
        if not stream:
            reply = await stub.GeneratorReply(message, **call)
            yield reply.response[0].response
            return
        finished = ""
        async for reply in stub.GeneratorReplyStream(message, **call):
            yield reply.response[0].response
            finished = reply.response[0].finish_reason
        if finished in ("", "none"):
            raise FailedError(f"the stream ended with the finish reason {finished!r}")


class FailedError(Exception):
    """An answer that is none."""


def _delta(event: dict[str, Any]) -> Part:
    """Of a chunk. Raises FailedError with the error that came in its place."""
    if "error" in event:
        raise FailedError(f"in the stream: {event['error']}")
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


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
