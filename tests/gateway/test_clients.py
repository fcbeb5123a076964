"""Clients that leave, dawdle, say nothing, or say the wrong thing."""

import asyncio
import json

import pytest
from aiohttp import web

from mii_gateway import app, proxy
from mii_gateway.listener import Listener


@pytest.fixture
async def replica(start_replica):
    return await start_replica()


@pytest.fixture
async def connect(stack):
    """Opens raw connections."""

    async def connect(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        return reader, writer

    return connect


async def endless(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b"data: x\n\n")
        await asyncio.sleep(0.001)


async def hang(request):
    await asyncio.Event().wait()


async def test_a_client_that_leaves_a_stream_stops_the_replica(replica, start_gateway, until):
    gateway = await start_gateway(replica)
    replica.respond = endless
    async with gateway.post() as response:
        await response.content.readany()
        response.close()
    await until(lambda: replica.left == 1, seconds=1)
    await until(lambda: gateway.in_flight == 0)
    assert await gateway.metric('mii_gateway_requests_total{code="499",protocol="http"}') == 1


async def test_a_client_that_leaves_before_the_first_byte_stops_the_replica(replica, start_gateway, until):
    gateway = await start_gateway(replica)
    replica.respond = hang
    request = asyncio.create_task(gateway.answer())
    await until(lambda: replica.requests)
    request.cancel()
    await until(lambda: replica.left == 1, seconds=1)
    assert [r.state for r in gateway.gateway.table.all()] == ["ready"]


async def test_a_slow_client_slows_the_replica(replica, start_gateway, connect, until):
    """Nothing piles up in the gateway: what is not read is not made."""
    gateway = await start_gateway(replica, idle_timeout=0.5)
    written = 0

    async def flood(request):
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(4096):
            await response.write(bytes(65536))
            written += 65536
        return response

    replica.respond = flood
    _, writer = await connect(gateway.port)
    writer.transport.pause_reading()
    writer.write(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: written > 0)
    await until(lambda: replica.left == 1)  # given up after the idle timeout
    assert written < 64 * 2**20
    assert await gateway.metric('mii_gateway_requests_total{code="499",protocol="http"}') == 1


async def test_silent_connections_are_closed_and_disturb_nobody(replica, start_gateway, connect, stack):
    gateway = await start_gateway(replica)
    listener = Listener(app.create_app(gateway.gateway), header_timeout=0.3)
    port = await listener.start("127.0.0.1", 0)
    stack.push_async_callback(listener.stop)
    silent = [await connect(port) for _ in range(100)]
    dawdling, writer = await connect(port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nX-Slow: ")
    async with gateway.session.post(f"http://127.0.0.1:{port}/v1/completions", json={}) as response:
        assert response.status == 200
    async with asyncio.timeout(5):
        assert [await reader.read() for reader, _ in silent] == [b""] * 100
        assert await dawdling.read() == b""


async def test_a_connection_in_use_outlives_the_header_timeout(replica, start_gateway, connect, stack):
    gateway = await start_gateway(replica)
    listener = Listener(app.create_app(gateway.gateway), header_timeout=0.05)
    port = await listener.start("127.0.0.1", 0)
    stack.push_async_callback(listener.stop)

    async def slow(request):
        await asyncio.sleep(0.15)
        return web.Response(text="done")

    replica.respond = slow
    async with gateway.session.post(f"http://127.0.0.1:{port}/v1/x") as response:
        assert await response.text() == "done"


async def test_a_slow_body_is_408(replica, start_gateway, connect, monkeypatch):
    gateway = await start_gateway(replica)
    limits = proxy.Limits(deployment_name="demo", max_body_bytes=100, idle_timeout=5, body_timeout=0.1)
    monkeypatch.setattr(gateway.gateway.http, "_limits", limits)
    reader, writer = await connect(gateway.port)
    writer.write(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    assert not replica.requests


async def test_a_body_declared_too_large_is_refused_unread(replica, start_gateway, connect):
    gateway = await start_gateway(replica, max_body_bytes=1000)
    reader, writer = await connect(gateway.port)
    writer.write(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 413 ")
    error = json.loads(await reader.readuntil(b"}}"))["error"]
    assert error["code"] == "request_too_large"
    assert "1000 bytes" in error["message"]


async def test_a_body_that_turns_out_too_large_is_refused(replica, start_gateway):
    gateway = await start_gateway(replica, max_body_bytes=1000)

    async def pieces():
        for _ in range(11):
            yield bytes(100)

    status, body = await gateway.answer(json=None, data=pieces())
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert (await gateway.answer(json=None, data=bytes(1000)))[0] == 200
    assert len(replica.requests) == 1


@pytest.mark.parametrize(("length", "first"), [(5, b"HTTP/1.1 100 Continue"), (1001, b"HTTP/1.1 413 ")])
async def test_expect_continue(replica, start_gateway, connect, length, first):
    gateway = await start_gateway(replica, max_body_bytes=1000)
    reader, writer = await connect(gateway.port)
    head = f"POST /v1/x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode())
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)).startswith(first)
    if length == 5:
        writer.write(b"hello")
        await reader.readuntil(b"200 OK")
        assert replica.requests[0].body == b"hello"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/x HTTP/9.9\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "GET /v1/é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /v1/" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET v1/x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT elsewhere:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda value: repr(value[:40]),
)
async def test_bad_http_is_a_4xx_and_reaches_no_replica(replica, start_gateway, connect, request_bytes):
    gateway = await start_gateway(replica)
    reader, writer = await connect(gateway.port)
    writer.write(request_bytes)
    status = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
    assert 400 <= int(status.split()[1]) < 500, status
    assert not replica.requests
    assert (await gateway.answer())[0] == 200
    assert [r.failures for r in gateway.gateway.table.all()] == [0]


@pytest.mark.parametrize(
    "target",
    ["http://elsewhere.example/v1/x", "//elsewhere.example/v1/x", "/@elsewhere.example/", "/%ff"],
)
async def test_no_target_leads_elsewhere(replica, start_gateway, connect, target):
    gateway = await start_gateway(replica)
    reader, writer = await connect(gateway.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n"), 5) == b"HTTP/1.1 200 OK\r\n"
    assert len(replica.requests) == 1


async def test_header_text_passes_and_other_bytes_are_refused(replica, start_gateway, connect):
    gateway = await start_gateway(replica)
    reader, writer = await connect(gateway.port)
    head = "GET /v1/x HTTP/1.1\r\nHost: x\r\nX-Odd: "
    writer.write(f"{head}é\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n"), 5) == b"HTTP/1.1 200 OK\r\n"
    assert replica.requests[0].headers["X-Odd"] == "é"
    reader, writer = await connect(gateway.port)
    writer.write(head.encode() + b"\xff\xfe\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n"), 5) == b"HTTP/1.1 400 Bad Request\r\n"
    assert b"'X-Odd'" in await asyncio.wait_for(reader.readuntil(b"}}"), 5)
    assert len(replica.requests) == 1


async def test_pipelined_requests_are_answered_in_order(replica, start_gateway, connect):
    gateway = await start_gateway(replica)

    async def path(request):
        return web.Response(text=request.path)

    replica.respond = path
    reader, writer = await connect(gateway.port)
    writer.write(b"".join(b"GET /v1/%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(3)))
    for n in range(3):
        await asyncio.wait_for(reader.readuntil(b"/v1/%d" % n), 5)


async def test_many_at_once_are_all_answered(replica, start_gateway):
    gateway = await start_gateway(replica)
    answers = await asyncio.gather(*(gateway.answer() for _ in range(100)))
    assert {status for status, _ in answers} == {200}
    assert gateway.in_flight == 0
    assert await gateway.metric('mii_gateway_requests_total{code="200",protocol="http"}') == 100
