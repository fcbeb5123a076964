"""The HTTP proxy when nothing goes wrong."""

import asyncio
import hashlib
import io
import json

import aiohttp
import pytest
from aiohttp import web

EVENTS = [f'data: {{"token": {i}, "text": "é\\u2028"}}\n\n'.encode() for i in range(200)] + [
    b"data: [DONE]\n\n"
]


def event_stream(pieces, headers=()):
    async def respond(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **dict(headers)})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response

    return respond


@pytest.fixture
async def replica(start_replica):
    return await start_replica()


@pytest.fixture
async def gateway(start_gateway, replica):
    return await start_gateway(replica)


async def test_event_stream_passes_byte_for_byte(gateway, replica):
    replica.respond = event_stream(EVENTS)
    async with gateway.post() as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.read() == b"".join(EVENTS)


async def test_every_event_arrives_before_the_next_is_made(gateway, replica):
    turn = asyncio.Event()

    async def respond(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in EVENTS[:5]:
            await response.write(event)
            await turn.wait()
            turn.clear()
        return response

    replica.respond = respond
    async with asyncio.timeout(5), gateway.post() as response:
        for event in EVENTS[:5]:
            assert await response.content.readexactly(len(event)) == event
            turn.set()


async def test_request_arrives_unchanged(gateway, replica):
    async with gateway.session.put(
        gateway.url + "/v1/a%20b/%2Fc?q=%20x&q=2",
        data=b"\x00\xff",
        headers={"X-Mine": "1", "Accept": "text/x"},
    ) as response:
        assert response.status == 200
    [request] = replica.requests
    assert (request.method, request.target, request.body) == ("PUT", "/v1/a%20b/%2Fc?q=%20x&q=2", b"\x00\xff")
    assert request.headers["X-Mine"] == "1"
    assert request.headers["Accept"] == "text/x"


async def test_hop_by_hop_headers_stay_on_their_hop(gateway, replica):
    async def respond(request):
        return web.Response(text="x", headers={"Keep-Alive": "timeout=9", "X-Kept": "1"})

    replica.respond = respond
    headers = {"Connection": "X-Secret", "X-Secret": "1", "TE": "trailers", "Proxy-Authorization": "Basic x"}
    async with gateway.post(headers=headers) as response:
        assert "Keep-Alive" not in response.headers
        assert response.headers["X-Kept"] == "1"
    assert not {"X-Secret", "TE", "Proxy-Authorization"} & set(replica.requests[0].headers)


async def test_request_id_is_made_or_kept(gateway, replica):
    async with gateway.post() as response:
        made = response.headers["X-Request-Id"]
    async with gateway.post(headers={"X-Request-Id": "mine"}) as response:
        assert response.headers["X-Request-Id"] == "mine"
    assert [request.headers["X-Request-Id"] for request in replica.requests] == [made, "mine"]


async def test_compressed_bodies_stay_compressed(gateway, replica):
    async def respond(request):
        return web.Response(body=b"\x1f\x8bnot really", headers={"Content-Encoding": "gzip"})

    replica.respond = respond
    headers = {"Content-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(gateway.url + "/v1/x", data=b"\x1f\x8b odd", headers=headers) as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        assert await response.read() == b"\x1f\x8bnot really"
    assert replica.requests[0].body == b"\x1f\x8b odd"


async def test_large_bodies_pass_both_ways(gateway, replica):
    async def respond(request):
        return web.Response(body=hashlib.sha256(await request.read()).digest() * 500_000)

    replica.respond = respond
    body = bytes(range(256)) * 60_000  # 15 MB
    async with gateway.post(json=None, data=io.BytesIO(body)) as response:
        assert await response.read() == hashlib.sha256(body).digest() * 500_000
        assert response.content_length == 16_000_000


@pytest.mark.parametrize("status", [201, 204, 304, 400, 404, 422, 429, 500])
async def test_status_passes(gateway, replica, status):
    async def respond(request):
        return web.Response(status=status, headers={"X-From": "replica"})

    replica.respond = respond
    async with gateway.post() as response:
        assert (response.status, response.headers["X-From"]) == (status, "replica")
    assert len(replica.requests) == 1


async def test_head_has_a_length_and_no_body(gateway, replica):
    async with gateway.session.head(gateway.url + "/v1/models") as response:
        assert response.status == 200
        assert response.content_length == len(json.dumps({"replica": replica.name}))


async def test_cookies_do_not_leak_between_clients(gateway, replica):
    async def respond(request):
        return web.Response(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    replica.respond = respond
    for _ in range(2):
        async with gateway.post(headers={"Cookie": ""}) as response:
            assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    assert not any(request.headers.get("Cookie") for request in replica.requests)


async def test_redirects_are_the_clients_to_follow(gateway, replica):
    async def respond(request):
        return web.Response(status=307, headers={"Location": "/v1/elsewhere"})

    replica.respond = respond
    async with gateway.post(allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (307, "/v1/elsewhere")


async def test_mii_deployment_by_name(gateway, replica):
    assert (await gateway.answer("/mii/demo"))[0] == 200
    status, body = await gateway.answer("/mii/other")
    assert status == 404
    assert "'other'" in body["error"]["message"]
    assert "'demo'" in body["error"]["message"]
    assert len(replica.requests) == 1


async def test_health_and_metrics(gateway, replica, until):
    for url in (gateway.url, gateway.probe_url):
        for path in ("/health/live", "/health/ready"):
            async with gateway.session.get(url + path) as response:
                assert (response.status, await response.text()) == (200, "ok")
    async with gateway.session.get(gateway.url + "/healthz") as response:
        assert await response.text() == "ok"
    async with gateway.session.get(gateway.url + "/metrics") as response:
        assert response.status == 404
    await gateway.answer()
    assert await gateway.metric('mii_gateway_requests_total{code="200",protocol="http"}') == 1
    assert await gateway.metric('mii_gateway_replicas{state="ready"}') == 1
    assert await gateway.metric("mii_gateway_overhead_seconds_count") == 1
    replica.ready = False
    await until(lambda: not gateway.gateway.table.ready)
    async with gateway.session.get(gateway.url + "/health/ready") as response:
        assert (response.status, await response.text()) == (503, "no replica is ready")
    async with gateway.session.get(gateway.probe_url + "/health/ready") as response:
        assert response.status == 200  # requests may come, and wait


async def test_busy_replica_is_spared(start_replica, start_gateway, until):
    busy, free = await start_replica(), await start_replica()
    gateway = await start_gateway(busy, free)
    released = asyncio.Event()

    async def wait(request):
        await released.wait()
        return web.json_response({"replica": "slow"})

    held = asyncio.create_task(_hold(gateway, (busy, free), wait))
    await until(lambda: busy.requests or free.requests)
    other = free if busy.requests else busy
    for _ in range(10):
        assert (await gateway.answer())[1] == {"replica": other.name}
    released.set()
    assert await held == (200, {"replica": "slow"})


async def _hold(gateway, replicas, respond):
    """One request to whichever replica the gateway picks; only its first request is held."""
    defaults = {replica: replica.respond for replica in replicas}

    def once(replica):
        async def first(request):
            replica.respond = defaults[replica]
            for other in replicas:
                other.respond = defaults[other]
            return await respond(request)

        return first

    for replica in replicas:
        replica.respond = once(replica)
    return await gateway.answer()


async def test_access_log_tells_of_a_request_but_not_its_contents(gateway, caplog, until):
    with caplog.at_level("INFO", logger="mii_gateway.access"):
        await gateway.answer(
            "/v1/completions?key=hush", json={"prompt": "hush"}, headers={"Authorization": "hush"}
        )
        await until(lambda: caplog.records)
    [record] = caplog.records
    assert record.fields["path"] == "/v1/completions"
    assert record.fields["status"] == "200"
    assert record.fields["bytes_out"] > 0
    assert "hush" not in json.dumps(record.fields)
