"""Clients that mean harm, many of them: everybody else is answered meanwhile, and soon."""

import asyncio
import contextlib
import socket
import time

import pytest

from mii_gateway import app, proxy
from mii_gateway.listener import Listener

HOST = "127.0.0.1"
ATTACKERS = 200
SOON = 5.0  # seconds; milliseconds where the machine is idle
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
async def replica(start_replica):
    return await start_replica()


@pytest.fixture
async def connect_many(stack):
    async def connect(port):
        pairs = [await asyncio.open_connection(HOST, port) for _ in range(ATTACKERS)]
        for _, writer in pairs:
            stack.callback(writer.close)
        return pairs

    return connect


async def answered(gateway, port=None):
    """Twenty well-behaved requests, one after the other, while something else goes on."""
    url = f"http://{HOST}:{port or gateway.port}/v1/completions"
    for number in range(20):
        began = time.monotonic()
        async with gateway.session.post(url, json={"n": number}) as response:
            assert response.status == 200
            await response.read()
        assert time.monotonic() - began < SOON


@contextlib.asynccontextmanager
async def dripping(writers, data):
    """A byte to each now and then."""

    async def drip():
        for byte in data:
            for writer in writers:
                writer.write(bytes([byte]))
            await asyncio.sleep(0.005)

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()


async def test_dripping_heads_are_cut_off_and_hurt_nobody(replica, start_gateway, connect_many, stack):
    gateway = await start_gateway(replica)
    listener = Listener(app.create_app(gateway.gateway), header_timeout=0.5)
    port = await listener.start(HOST, 0)
    stack.push_async_callback(listener.stop)
    attackers = await connect_many(port)
    async with dripping([writer for _, writer in attackers], HEAD + b"X-Slow: " + b"x" * 4000):
        await answered(gateway, port)
        async with asyncio.timeout(SOON):
            ends = await asyncio.gather(*(reader.read() for reader, _ in attackers), return_exceptions=True)
    assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
    assert len(replica.requests) == 20


async def test_dripping_bodies_are_408_and_hurt_nobody(replica, start_gateway, connect_many, monkeypatch):
    gateway = await start_gateway(replica)
    limits = proxy.Limits(deployment_name="demo", max_body_bytes=10_000, idle_timeout=5, body_timeout=0.5)
    monkeypatch.setattr(gateway.gateway.http, "_limits", limits)
    attackers = await connect_many(gateway.port)
    for _, writer in attackers:
        writer.write(HEAD + b"Content-Length: 9000\r\n\r\n")
    async with dripping([writer for _, writer in attackers], b"x" * 4000):
        await answered(gateway)
        async with asyncio.timeout(SOON):
            for reader, _ in attackers:
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 408 ")
    assert len(replica.requests) == 20


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 100000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n"],
    ids=["declared", "chunked"],
)
async def test_oversized_bodies_are_413_and_hurt_nobody(replica, start_gateway, connect_many, framing):
    gateway = await start_gateway(replica, max_body_bytes=100_000)
    attackers = await connect_many(gateway.port)

    async def flood(writer):
        with contextlib.suppress(ConnectionError):
            writer.write(HEAD + framing)
            for _ in range(50):
                writer.write(bytes(10_000))
                await writer.drain()

    floods = [asyncio.create_task(flood(writer)) for _, writer in attackers]
    await answered(gateway)
    async with asyncio.timeout(SOON):
        for reader, _ in attackers:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # reset while it sends
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")
        await asyncio.gather(*floods)
    assert len(replica.requests) == 20
    refused = await gateway.metric('mii_gateway_requests_total{code="413",protocol="http"}')
    assert refused == ATTACKERS


async def test_half_closed_connections_hurt_nobody(replica, start_gateway, connect_many, until):
    """Nothing can come from them any more; what they asked for, and what that holds, ends."""
    gateway = await start_gateway(replica)
    answering, replica.respond = replica.respond, lambda request: asyncio.Event().wait()
    attackers = await connect_many(gateway.port)
    waiting, partial, silent = attackers[:50], attackers[50:100], attackers[100:]
    for _, writer in waiting:
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
    for _, writer in partial:
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{")
    await until(lambda: len(replica.requests) == len(waiting))
    replica.respond = answering
    for _, writer in attackers:
        writer.write_eof()
    await answered(gateway)
    await until(lambda: replica.left == len(waiting) and gateway.in_flight == 0)
    async with asyncio.timeout(SOON):
        for reader, _ in (*partial, *silent):
            with contextlib.suppress(ConnectionError):
                await reader.read()
    assert gateway.gateway.lifecycle.open == 0
    assert [r.state for r in gateway.gateway.table.all()] == ["ready"]


async def test_replicas_that_close_their_side_hurt_nobody(replica, start_gateway, until):
    """A kept connection that the replica has half closed is not used for another request."""
    gateway = await start_gateway(replica)

    async def half_close(request):
        connection = request.transport.get_extra_info("socket")
        response = await answering(request)
        asyncio.get_running_loop().call_later(0.01, shut, connection)
        return response

    def shut(connection):
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connection._sock, socket.SHUT_WR)

    answering, replica.respond = replica.respond, half_close
    for _ in range(3):
        await answered(gateway)
    assert gateway.in_flight == 0
