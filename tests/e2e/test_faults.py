"""Processes that die or are told to end while many clients ask: who notices, and what they are told."""

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field

import aiohttp
import grpc
import pytest

from mii.server.proto.modelresponse_pb2 import MultiStringRequest, Value
from mii.server.proto.modelresponse_pb2_grpc import ModelResponseStub

pytestmark = pytest.mark.slow

KINDS = ("http", "http stream", "grpc", "grpc stream")


@dataclass
class Call:
    """One request and what has become of it."""

    kind: str
    request_id: str
    wanted: int  # tokens
    pieces: int = 0  # that have come so far
    tokens: int = 0  # that there are, says the whole answer
    error: str = ""
    done: bool = False
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0

    @property
    def streams(self):
        return self.kind.endswith("stream")

    @property
    def whole(self):
        return self.done and not self.error and self.tokens == self.wanted


class Clients:
    """Clients of one address pair; `calls` has every request that they have made."""

    def __init__(self, http, stub, url):
        self.calls = []
        self._http = http
        self._stub = stub
        self._url = url
        self._numbers = itertools.count()
        self._tasks = []

    def start(self, kind, tokens):
        """Sends a request; it is read as it comes."""
        call = self._call(kind, tokens)
        self._tasks.append(asyncio.create_task(self._ask(call)))
        return call

    def repeat(self, kind, tokens, until):
        """Sends one request after another until the event is set, or one is refused for good."""

        async def work():
            while not until.is_set():
                call = self._call(kind, tokens)
                await self._ask(call)
                if call.error and not call.pieces:
                    return

        self._tasks.append(asyncio.create_task(work()))

    async def all(self):
        """Returns when every request has ended."""
        await asyncio.gather(*self._tasks)

    async def cancel(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _call(self, kind, tokens):
        call = Call(kind, f"e2e-{next(self._numbers)}", tokens)
        self.calls.append(call)
        return call

    async def _ask(self, call):
        try:
            await (self._ask_grpc(call) if call.kind.startswith("grpc") else self._ask_http(call))
        except aiohttp.ClientError as error:
            call.error = f"connection: {error!r}"
        except grpc.aio.AioRpcError as error:
            call.error = f"{error.code().name}: {error.details()}"
        call.ended = time.monotonic()

    async def _ask_http(self, call):
        body = {
            "prompt": f"Story {call.request_id}:",
            "max_tokens": call.wanted,
            "ignore_eos": True,
            "seed": 1,
        }
        body |= {"stream": True, "stream_options": {"include_usage": True}} if call.streams else {}
        headers = {"X-Request-Id": call.request_id}
        async with self._http.post(self._url + "/v1/completions", json=body, headers=headers) as response:
            if response.status != 200:
                call.error = f"{response.status}: {(await response.json())['error']['message']}"
            elif call.streams:
                await self._read_events(call, response)
            else:
                call.tokens, call.done = (await response.json())["usage"]["completion_tokens"], True

    async def _read_events(self, call, response):
        async for line in response.content:
            data = line.decode().removeprefix("data: ").strip()
            if data == "[DONE]":
                call.done = True
            elif data:
                event = json.loads(data)
                call.error = event.get("error", {}).get("message", "")
                call.pieces += bool(event.get("choices"))
                call.tokens = (event.get("usage") or {}).get("completion_tokens", 0)

    async def _ask_grpc(self, call):
        options = {"max_new_tokens": Value(ivalue=call.wanted), "ignore_eos": Value(bvalue=True)}
        request = MultiStringRequest(request=[f"Story {call.request_id}:"], query_kwargs=options)
        metadata = [("x-request-id", call.request_id)]
        if not call.streams:
            reply = await self._stub.GeneratorReply(request, metadata=metadata)
            call.tokens, call.done = reply.response[0].generated_tokens, True
            return
        async for reply in self._stub.GeneratorReplyStream(request, metadata=metadata):
            call.pieces += 1
            call.tokens = reply.response[0].generated_tokens
        call.done = True


@pytest.fixture
async def connect(http):
    """Makes clients of a server or a deployment."""
    channels, made = [], []

    def connect(target):
        channels.append(grpc.aio.insecure_channel(target.target))
        made.append(Clients(http, ModelResponseStub(channels[-1]), target.url))
        return made[-1]

    yield connect
    for clients in made:
        await clients.cancel()
    for channel in channels:
        await channel.close()


async def test_a_killed_engine_ends_every_request_and_the_server(own_server, connect, eventually, get):
    clients = connect(own_server)
    kinds = ["http stream"] * 6 + ["grpc stream"] * 2 + ["http", "grpc"]
    calls = [clients.start(kind, 400) for kind in kinds]
    await eventually(lambda: all(call.pieces > 1 for call in calls if call.streams), "8 streams")
    assert own_server.running() == 10
    own_server.engine().kill()
    killed = time.monotonic()
    await asyncio.wait_for(clients.all(), 30)
    assert max(call.ended - killed for call in calls) < 2
    for call in calls:
        assert "SIGKILL" in call.error, call
    for path in ("/health/live", "/health/ready"):
        status, text = await asyncio.to_thread(get, own_server.url + path)
        assert (status, "SIGKILL" in text) == (503, True)
    assert await asyncio.to_thread(own_server.program.process.wait, 30) == 1
    assert "was killed by SIGKILL" in own_server.program.log.read_text()


async def test_sigterm_lets_32_streams_finish(own_server, connect, eventually, lives):
    clients = connect(own_server)
    calls = [clients.start(kind, 24) for kind in ["http stream", "grpc stream"] * 16]
    await eventually(lambda: all(call.pieces for call in calls), "32 streams")
    engine = own_server.engine()
    assert own_server.running() == 32
    own_server.program.process.terminate()
    await eventually(lambda: not own_server.ready, "it drains")
    late = clients.start("http", 1)
    await clients.all()
    assert [call for call in calls if not call.whole] == []
    assert late.error == "503: the server is shutting down"
    assert await asyncio.to_thread(own_server.program.process.wait, 30) == 0
    assert not lives(engine)


def busiest(deployment):
    """Port and replica with the most requests: like prompts go to one replica, so the other may have none."""
    return max(deployment.replicas().items(), key=lambda it: it[1].metrics()["mii:num_requests_running"])


@pytest.mark.parametrize("victim", ["engine", "server"])
async def test_a_killed_replica_costs_only_what_it_had_begun_to_stream(
    deployment, connect, eventually, victim
):
    """Clients ask all the while; eight streams are certain to be under way when a replica's process dies."""
    await eventually(lambda: len(ready_replicas(deployment)) == 2, "two replicas")
    clients, enough = connect(deployment), asyncio.Event()
    for kind in KINDS * 2:
        clients.repeat(kind, 12, enough)
    held = [clients.start(kind, 160) for kind in ["http stream", "grpc stream"] * 4]
    whole = [clients.start(kind, 160) for kind in ["http", "grpc"] * 4]
    await eventually(lambda: all(call.pieces for call in held), "8 streams")
    port, replica = await asyncio.to_thread(busiest, deployment)
    if victim == "engine":
        replica.engine().kill()
    else:
        replica_process(deployment, port).kill()
    killed = time.monotonic()

    def serves_again():
        """In rotation: the gateway, which alone knows it, has given the new process work."""
        now = deployment.replicas().get(port)
        if now is None or now.pid == replica.pid or not now.ready:
            return False
        return now.metrics()["mii:request_success_total{length}"] > 0

    await eventually(lambda: asyncio.to_thread(serves_again), "the replica is back", 120)
    enough.set()
    await clients.all()

    log = await eventually(lambda: complete_log(deployment, clients), "the gateway's log")
    failed = [call for call in clients.calls if not call.whole]
    assert [call for call in failed if not call.streams] == []
    assert all(call.whole for call in whole)
    assert any(not call.whole for call in held)
    for call in failed:
        assert call.began < killed
        assert call.ended - killed < 2
        assert call.pieces > 0, f"it had not streamed: {call}"
        assert log[call.request_id]["replica"] == f"127.0.0.1:{port}"
        assert ("SIGKILL" if victim == "engine" else f"127.0.0.1:{port}") in call.error
    after = [call for call in clients.calls if call.began > killed]
    assert {call.kind for call in after} == set(KINDS)
    assert any(log[call.request_id]["failures"] for call in clients.calls), "somebody was sent on"


async def test_sigterm_to_mii_up_finishes_everything(deployment, connect, eventually, children, lives):
    """The last test of the deployment."""
    await eventually(lambda: len(ready_replicas(deployment)) == 2, "two replicas")
    processes = children(deployment.pid)
    assert len(processes) >= 5  # two servers with an engine each, and the gateway
    clients, never = connect(deployment), asyncio.Event()
    calls = [clients.start(kind, 32) for kind in KINDS * 4]
    for kind in KINDS:
        clients.repeat(kind, 8, never)  # until it is refused
    await eventually(lambda: all(call.pieces for call in calls if call.streams), "8 streams")
    deployment.program.process.terminate()
    await clients.all()
    assert [call for call in calls if not call.whole] == []
    assert [call for call in clients.calls if call.pieces and not call.whole] == [], "none is cut"
    refused = [call for call in clients.calls if not call.whole]
    assert sorted(call.kind for call in refused) == sorted(KINDS), "each client's last one"
    assert await asyncio.to_thread(deployment.program.process.wait, 30) == 0
    assert not any(map(lives, processes))


def complete_log(deployment, clients):
    """The gateway's, once it has all requests: it is written behind their back."""
    log = deployment.access_log()
    return log if {call.request_id for call in clients.calls} <= log.keys() else None


def ready_replicas(deployment):
    return [replica for replica in deployment.replicas().values() if replica.ready]


def replica_process(deployment, port):
    import psutil

    return psutil.Process(deployment.replicas()[port].pid)
