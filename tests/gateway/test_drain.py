"""The end of a gateway: in this process, and as a process of its own that gets signals."""

import asyncio
import json
import signal
import sys

import aiohttp
import grpc
import pytest
from aiohttp import web

from mii_gateway import app

# gRPC cancels a call that is just arriving while a server stops (mii_gateway.grpc_server, CONNECTION_AGE).
REFUSED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@pytest.fixture
async def replica(start_replica):
    return await start_replica()


def held_stream(released):
    async def respond(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await released.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    return respond


async def test_a_drain_waits_for_streams_and_accepts_nobody_new(replica, start_gateway, stack):
    gateway = await start_gateway(replica)
    regular = await stack.enter_async_context(aiohttp.ClientSession(gateway.url))
    async with regular.post("/v1/completions", json={}) as response:  # its connection stays open
        await response.read()
    released, answering = asyncio.Event(), replica.respond
    replica.respond = held_stream(released)
    async with gateway.post() as stream:
        await stream.content.readany()
        replica.respond = answering
        gateway.gateway.lifecycle.terminate()
        draining = asyncio.create_task(app.drain(gateway.gateway, gateway.main, asyncio.Event()))
        async with gateway.session.get(gateway.probe_url + "/health/ready") as response:
            assert (response.status, await response.text()) == (503, "draining")
        async with regular.post("/v1/completions", json={}) as response:
            assert (response.status, response.headers["Connection"]) == (200, "close")
        with pytest.raises(aiohttp.ClientConnectorError):
            await regular.post("/v1/completions", json={})
        assert not draining.done()
        released.set()
        assert await stream.content.read() == b"data: [DONE]\n\n"
    await gateway.session.close()
    await asyncio.wait_for(draining, app.LINGER / 2)


async def test_a_drain_answers_who_was_about_to_ask(replica, start_gateway):
    """On a connection from before, which the answer closes; then nothing is left to wait for."""
    gateway = await start_gateway(replica)
    async with gateway.post() as response:
        await response.read()
    gateway.gateway.lifecycle.terminate()
    draining = asyncio.create_task(app.drain(gateway.gateway, gateway.main, asyncio.Event()))
    await asyncio.sleep(0.2)
    assert not draining.done()
    async with gateway.post() as response:
        assert (response.status, response.headers["Connection"]) == (200, "close")
    await asyncio.wait_for(draining, app.LINGER / 2)


async def test_a_drain_ends_though_connections_stay(replica, start_gateway, monkeypatch):
    monkeypatch.setattr(app, "LINGER", 0.2)
    gateway = await start_gateway(replica, drain_timeout=60.0)
    async with gateway.post() as response:
        await response.read()
    gateway.gateway.lifecycle.terminate()
    await asyncio.wait_for(app.drain(gateway.gateway, gateway.main, asyncio.Event()), 5)
    assert gateway.main.connections == 1


async def test_clients_that_never_pause_cannot_hold_a_drain_up(replica, start_gateway, channel, until):
    """Over HTTP and gRPC, several at once, so that there is always an open request."""
    gateway = await start_gateway(replica, drain_timeout=60.0)
    client = await channel(gateway.grpc_target)
    answered = []

    async def answer(request):
        await asyncio.sleep(0.05)  # the replica's work
        return web.json_response({})

    async def answer_grpc(messages, context):
        async for message in messages:
            await asyncio.sleep(0.05)
            await context.write(message)

    replica.respond, replica.respond_grpc = answer, answer_grpc

    async def over_http():
        while True:
            async with gateway.post() as response:
                answered.append(await response.read())

    async def over_grpc():
        while True:
            answered.append(await client.unary_unary("/any/Method")(b"x"))

    asking = [asyncio.create_task(work()) for work in (over_http, over_grpc) for _ in range(4)]
    await until(lambda: len(answered) > 16)
    gateway.gateway.lifecycle.terminate()
    await asyncio.wait_for(app.drain(gateway.gateway, gateway.main, asyncio.Event()), 5)
    assert gateway.gateway.lifecycle.open == 0
    for end in await asyncio.gather(*asking, return_exceptions=True):
        refused = isinstance(end, aiohttp.ClientConnectorError)
        assert refused or end.code() in REFUSED


async def test_a_drain_ends_at_its_timeout_or_when_hurried(replica, start_gateway, until):
    replica.respond = held_stream(asyncio.Event())
    for timeout, hurried in ((0.1, False), (60.0, True)):
        gateway = await start_gateway(replica, drain_timeout=timeout)
        async with gateway.post() as stream:
            await stream.content.readany()
            hurry = asyncio.Event()
            draining = asyncio.create_task(app.drain(gateway.gateway, gateway.main, hurry))
            if hurried:
                hurry.set()
            await asyncio.wait_for(draining, 5)
            assert gateway.gateway.lifecycle.open == 1


class GatewayProcess:
    def __init__(self, process):
        self.process = process
        self.lines = []

    async def next(self, message):
        """The next log line with this message."""
        while True:
            raw = await asyncio.wait_for(self.process.stderr.readline(), 30)
            assert raw, f"the gateway ended before it said {message!r}: {self.lines}"
            self.lines.append(json.loads(raw))
            if self.lines[-1]["message"] == message:
                return self.lines[-1]


@pytest.fixture
def start_process(stack):
    async def start(*argv):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mii_gateway.app", "--deployment-name=demo"),
            *("--port=0", "--grpc-port=0", "--probe-port=0", *argv),
            stderr=asyncio.subprocess.PIPE,
        )

        async def end():
            if process.returncode is None:
                process.kill()
            await process.communicate()

        stack.push_async_callback(end)
        return GatewayProcess(process)

    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_0(replica, start_process, stack, number):
    gateway = await start_process(f"--replica={replica.address}")
    url = f"http://127.0.0.1:{(await gateway.next('listening'))['http']}/v1/completions"
    session = await stack.enter_async_context(aiohttp.ClientSession())
    released = asyncio.Event()
    replica.respond = held_stream(released)
    streams = [await session.post(url, json={}) for _ in range(32)]
    for stream in streams:
        await stream.content.readany()
    gateway.process.send_signal(number)
    await gateway.next("draining")
    released.set()
    assert [await stream.content.read() for stream in streams] == [b"data: [DONE]\n\n"] * 32
    await session.close()
    assert await asyncio.wait_for(gateway.process.wait(), 10) == 0


async def test_a_second_interrupt_cuts_what_is_left(replica, start_process, stack):
    gateway = await start_process(f"--replica={replica.address}")
    url = f"http://127.0.0.1:{(await gateway.next('listening'))['http']}/v1/completions"
    session = await stack.enter_async_context(aiohttp.ClientSession())
    replica.respond = held_stream(asyncio.Event())
    stream = await session.post(url, json={})
    await stream.content.readany()
    gateway.process.send_signal(signal.SIGINT)
    await gateway.next("draining")
    gateway.process.send_signal(signal.SIGINT)
    assert (await gateway.next("drained"))["cut"] == 1
    assert await asyncio.wait_for(gateway.process.wait(), 10) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], b"--replica: give at least one"),
        (["--replica=x"], b"--replica 'x': expected HTTP_HOST:PORT/GRPC_PORT"),
        (["--replica=h:1/2", "--connect-timeout=0"], b"--connect-timeout: must be more than 0"),
    ],
)
async def test_a_bad_command_line_says_why(start_process, argv, message):
    gateway = await start_process(*argv)
    _, stderr = await asyncio.wait_for(gateway.process.communicate(), 30)
    assert message in stderr
    assert gateway.process.returncode == 1


async def test_a_taken_port_says_so(replica, start_process):
    for option in ("--port", "--grpc-port", "--probe-port"):
        gateway = await start_process("--replica=h:1/2", f"{option}={replica.http_port}")
        _, stderr = await asyncio.wait_for(gateway.process.communicate(), 30)
        assert b"cannot listen" in stderr
        assert str(replica.http_port).encode() in stderr
        assert gateway.process.returncode == 1
