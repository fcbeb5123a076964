"""Replicas that die, drain, stall and come back: what clients see of it."""

import asyncio
import json
import time

import aiohttp
import pytest
from aiohttp import web

from mii_spec.launch import GatewayArgs

SSE = {"Content-Type": "text/event-stream"}


@pytest.fixture
async def pair(start_replica):
    return await start_replica(), await start_replica()


def both(pair, respond):
    for replica in pair:
        replica.respond = respond


def breaking_once(pair, break_request):
    """The first request to arrive anywhere is broken, later ones are answered."""
    originals = {replica: replica.respond for replica in pair}

    async def respond(request):
        for replica, original in originals.items():
            replica.respond = original
        return await break_request(request)

    both(pair, respond)


async def reset(request):
    request.transport.abort()
    return web.Response()


async def reset_after_headers(request):
    response = web.StreamResponse(headers=SSE)
    await response.prepare(request)
    response._payload_writer.send_headers()
    request.transport.abort()
    return response


async def garbage(request):
    request.transport.write(b"not HTTP at all\r\n\r\n")
    request.transport.close()
    return web.Response()


async def draining(request):
    return web.Response(status=503)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(reset, "broken"), (reset_after_headers, "broken"), (garbage, "broken"), (draining, "refused")],
)
async def test_a_failure_before_the_first_byte_is_the_next_replicas_request(
    pair, start_gateway, failure, reason
):
    gateway = await start_gateway(*pair)
    breaking_once(pair, failure)
    status, _ = await gateway.answer(json={"prompt": "once"})
    assert status == 200
    assert [len(replica.requests) for replica in pair] == [1, 1]
    assert pair[0].requests[0].body == pair[1].requests[0].body
    assert await gateway.metric(f'mii_gateway_retries_total{{reason="{reason}"}}') == 1
    assert gateway.in_flight == 0


async def test_a_dead_replica_is_skipped_before_any_health_check(pair, start_gateway):
    gateway = await start_gateway(*pair, health_interval=60.0)
    await pair[0].kill()
    results = await asyncio.gather(*(gateway.answer(json={"n": n}) for n in range(20)))
    assert results == [(200, {"replica": pair[1].name})] * 20


async def test_health_checks_notice_a_death_and_a_return(pair, start_gateway, until):
    gateway = await start_gateway(*pair)
    states = lambda: {replica.name: replica.state for replica in gateway.gateway.table.all()}  # noqa: E731
    await pair[0].kill()
    await until(lambda: states() == {pair[0].name: "down", pair[1].name: "ready"}, seconds=1)
    await pair[0].start()
    pair[1].ready = False
    await until(lambda: states() == {pair[0].name: "ready", pair[1].name: "unready"}, seconds=1)


@pytest.mark.parametrize("busy", [False, True])
async def test_a_death_is_out_of_rotation_within_a_second(pair, start_gateway, until, busy):
    """With the default health interval. Busy, the first request that meets it notices; idle, a check does."""
    gateway = await start_gateway(*pair, health_interval=GatewayArgs(deployment_name="").health_interval)
    dead = next(r for r in gateway.gateway.table.all() if r.name == pair[0].name)
    left = []
    gateway.gateway.table.subscribe(lambda: left.append(time.monotonic()) if dead.state == "down" else None)
    statuses, stop = [], asyncio.Event()

    async def client():
        while busy and not stop.is_set():
            statuses.append((await gateway.answer(json={"n": len(statuses)}))[0])

    clients = [asyncio.create_task(client()) for _ in range(4)]
    await until(lambda: not busy or pair[0].requests)
    died = time.monotonic()
    await pair[0].kill()
    await until(lambda: left, seconds=1.0)
    print(f"out of rotation after {(left[0] - died) * 1000:.0f} ms, {busy=}")
    assert left[0] - died < (0.1 if busy else 1.0)
    stop.set()
    await asyncio.gather(*clients)
    assert set(statuses) <= {200}


async def test_no_request_fails_while_replicas_die_and_return(pair, start_gateway, until):
    gateway = await start_gateway(*pair)
    for replica in pair:
        replica.respond = slowly(replica)
    stop, results = asyncio.Event(), []

    async def client(number):
        count = 0
        while not stop.is_set():
            count += 1
            results.append(await gateway.answer(json={"prompt": f"{number}.{count}"}))

    clients = [asyncio.create_task(client(number)) for number in range(16)]
    for victim in (*pair, *pair):
        seen = len(results)
        await until(lambda seen=seen: len(results) > seen + 50)
        await victim.kill()
        seen = len(results)
        await until(lambda seen=seen: len(results) > seen + 50)
        await victim.start()
        await until(lambda: gateway.gateway.table.count()["ready"] == 2)
    stop.set()
    await asyncio.gather(*clients)
    assert {status for status, _ in results} == {200}
    assert await gateway.metric('mii_gateway_retries_total{reason="broken"}') > 0
    assert gateway.in_flight == 0


def slowly(replica):
    async def respond(request):
        await asyncio.sleep(0.01)  # so that there is something to break
        return web.json_response({"replica": replica.name})

    return respond


async def test_a_request_outlives_the_only_replica(start_replica, start_gateway, until):
    replica = await start_replica()
    gateway = await start_gateway(replica)

    async def hang(request):
        await asyncio.Event().wait()

    answering, replica.respond = replica.respond, hang
    pending = asyncio.create_task(gateway.answer())
    await until(lambda: replica.requests)
    await replica.kill()
    replica.respond = answering
    await replica.start()
    assert await pending == (200, {"replica": replica.name})


async def test_a_request_that_breaks_every_replica_is_given_up(start_replica, start_gateway):
    replicas = [await start_replica() for _ in range(5)]
    gateway = await start_gateway(*replicas)
    both(replicas, reset)
    status, body = await gateway.answer()
    assert status == 503
    assert body["error"]["code"] == "replica_failed"
    assert sum(len(replica.requests) for replica in replicas) == 3


async def test_a_get_is_not_repeated_behind_the_gateways_back(start_replica, start_gateway):
    replica = await start_replica()
    gateway = await start_gateway(replica, queue_timeout=0.3, health_interval=60.0)
    async with gateway.session.get(gateway.url + "/v1/models") as response:
        assert response.status == 200
    replica.ready = False
    replica.respond = reset
    async with gateway.session.get(gateway.url + "/v1/models") as response:
        assert response.status == 503
    assert len(replica.requests) == 2


def breaking_after(pieces, headers=SSE):
    async def respond(request):
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        request.transport.write(b"")
        request.transport.close()
        await asyncio.Event().wait()

    return respond


@pytest.mark.parametrize(
    ("piece", "separator"),
    [(b"data: 1\n\n", b""), (b"data: 1\r\n\r\n", b""), (b'data: {"half', b"\n\n")],
)
async def test_a_broken_event_stream_ends_with_an_error_event(pair, start_gateway, piece, separator):
    gateway = await start_gateway(*pair)
    both(pair, breaking_after([piece]))
    async with gateway.post() as response:
        received = await response.read()
    assert received.startswith(piece + separator + b"data: ")
    error = json.loads(received.removeprefix(piece + separator + b"data: "))["error"]
    assert error["code"] == "replica_lost"
    assert "127.0.0.1" in error["message"]
    assert sum(len(replica.requests) for replica in pair) == 1
    assert await gateway.metric('mii_gateway_requests_total{code="502",protocol="http"}') == 1


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "100"}, {**SSE, "Content-Length": "100"}])
async def test_a_broken_answer_of_another_kind_breaks(pair, start_gateway, headers):
    gateway = await start_gateway(*pair)
    both(pair, breaking_after([b"the beginning"], headers))
    with pytest.raises(aiohttp.ClientError):
        async with gateway.post() as response:
            await response.read()


async def test_a_broken_answer_breaks_for_old_clients_too(pair, start_gateway):
    """HTTP/1.0 has no chunks: an orderly end would pass for the end of the body."""
    gateway = await start_gateway(*pair)
    both(pair, breaking_after([b"the beginning"], {}))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /v1/x HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_replica_that_broke_a_stream_is_out_until_it_is_checked(start_replica, start_gateway, until):
    replica = await start_replica()
    gateway = await start_gateway(replica, health_interval=60.0)
    [seen] = gateway.gateway.table.all()
    states = []
    gateway.gateway.table.subscribe(lambda: states.append(seen.state))
    replica.respond = breaking_after([b"data: 1\n\n"])
    async with gateway.post() as response:
        await response.read()
    await until(lambda: states == ["down", "ready"], seconds=1)


async def test_silence_before_the_first_byte_is_504_and_not_retried(pair, start_gateway, until):
    gateway = await start_gateway(*pair, idle_timeout=0.1)
    both(pair, lambda request: asyncio.Event().wait())
    status, body = await gateway.answer()
    assert (status, body["error"]["code"]) == (504, "replica_silent")
    assert sum(len(replica.requests) for replica in pair) == 1
    await until(lambda: sum(replica.left for replica in pair) == 1)


async def test_silence_in_a_stream_ends_it(pair, start_gateway):
    gateway = await start_gateway(*pair, idle_timeout=0.1)

    async def stall(request):
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()

    both(pair, stall)
    async with gateway.post() as response:
        received = await response.read()
    assert json.loads(received.removeprefix(b"data: 1\n\ndata: "))["error"]["code"] == "replica_silent"


async def test_a_stream_may_last_longer_than_the_idle_timeout(pair, start_gateway):
    gateway = await start_gateway(*pair, idle_timeout=0.1)

    async def drip(request):
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        for _ in range(6):
            await response.write(b"data: 1\n\n")
            await asyncio.sleep(0.04)
        return response

    both(pair, drip)
    async with gateway.post() as response:
        assert await response.read() == b"data: 1\n\n" * 6
