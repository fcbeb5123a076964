"""What replicas say byte by byte, and how it reaches clients: cut anywhere, too much, too slow."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web


class RawReplica:
    """Answers every request with these bytes, each piece on its own."""

    def __init__(self, pieces, *, close):
        self.pieces = pieces
        self.close = close
        self.connections = 0  # that brought a request
        self.tasks = set()

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader, writer):
        first = True
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"/health/" in head or b"/v1/info" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            self.connections += first
            first = False
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
            for piece in self.pieces:
                writer.write(piece)
                await asyncio.sleep(0.002)
            if self.close:
                return


@pytest.fixture
def start_raw(stack, start_gateway):
    """A replica with these answers, and a gateway in front of it."""

    async def start(*pieces, close=False):
        replica = RawReplica(pieces, close=close)
        server = await asyncio.start_server(replica.serve, "127.0.0.1", 0)

        async def stop():
            server.close()
            for task in replica.tasks:
                task.cancel()
            await asyncio.gather(*replica.tasks, return_exceptions=True)
            await asyncio.sleep(0)

        stack.push_async_callback(stop)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}/1"
        return replica, await start_gateway(addresses=(address,), wait=False)

    return start


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "close", "body"),
    [
        ([OK, b"Content-Length: 3\r\n", b"\r\na", b"bc"], False, b"abc"),
        (
            [OK + b"Transfer-Encoding: chunked\r\n\r\n2\r", b"\nab\r\n", b"1\r\nc\r\n0\r", b"\n\r\n"],
            False,
            b"abc",
        ),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\nabc"], False, b"abc"),
        ([OK + b"\r\na", b"bc"], True, b"abc"),
        ([OK + b"\r\n"], True, b""),
        ([OK + b"Content-Length: 0\r\n\r\n"], False, b""),
    ],
)
async def test_answers_cut_anywhere(start_raw, pieces, close, body):
    replica, gateway = await start_raw(*pieces, close=close)
    for _ in range(3):
        async with gateway.post() as response:
            assert (response.status, await response.read()) == (200, body)
    assert replica.connections == (3 if close else 1)


async def test_a_connection_that_says_more_than_it_should_is_not_used_again(start_raw):
    replica, gateway = await start_raw(OK + b"Content-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n")
    for _ in range(2):
        async with gateway.post() as response:
            assert await response.read() == b"abc"
    assert replica.connections == 2


async def test_a_stream_that_breaks_inside_a_chunk_ends_with_an_error_event(start_raw):
    head = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, gateway = await start_raw(head + b"40\r\ndata: 1\n\nda", close=True)
    async with gateway.post() as response:
        first, *_, last = [event.strip() for event in (await response.read()).split(b"\n\n") if event.strip()]
    assert first == b"data: 1"
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "replica_lost"


async def test_old_clients_get_no_chunks(start_raw):
    _, gateway = await start_raw(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /v1/x HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert b"chunked" not in head
    assert body == b"abc"
    writer.close()


async def test_a_client_that_reads_slowly_holds_the_replica_back(start_replica, start_gateway, until):
    replica = await start_replica()
    gateway = await start_gateway(replica)
    sent = 0

    async def flood(request):
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x" * 65536)
            sent += 65536
        return response

    replica.respond = flood
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=2**16)
    writer.write(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await until(lambda: sent > 2**20)
    before = -1
    while before != sent:  # until it stands still
        before = sent
        await asyncio.sleep(0.2)
    assert sent < 32 * 2**20
    received = 0
    while received < 1000 * 65536:
        received += len(await asyncio.wait_for(reader.read(2**20), 5))
    writer.close()
