"""Clients that leave, stall or say nothing."""

import asyncio
import json

import aiohttp
import pytest

from mii.server.app import create_app, create_runner
from mii.server.service import Service
from mii_spec.launch import ServerArgs

PATHS = {
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 500},
    "/mii/tiny-deployment": {"prompts": "hi"},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_leaving_aborts_the_generation(http, engine, until, path, stream):
    engine.held_from = 3
    engine.gate.clear()
    asking = asyncio.create_task(_ask(http, path, PATHS[path] | {"stream": stream}))
    await until(lambda: engine.running)
    asking.cancel()
    await until(lambda: len(engine.aborted) == 1)
    assert engine.running == set()


async def test_leaving_aborts_every_prompt_and_choice(http, engine, until):
    engine.held_from = 3
    engine.gate.clear()
    body = {"prompt": ["a", "b"], "n": 3, "stream": True}
    asking = asyncio.create_task(_ask(http, "/v1/completions", body))
    await until(lambda: len(engine.running) == 6)
    asking.cancel()
    await until(lambda: len(engine.aborted) == 6)


async def test_leaving_in_mid_stream_disturbs_nobody(http, engine, until, server):
    engine.held_from = 5
    engine.gate.clear()
    staying = asyncio.create_task(_ask(http, "/v1/completions", {"prompt": "stay", "max_tokens": 8}))
    async with http.post("/v1/completions", json={"prompt": "go", "stream": True}) as response:
        await response.content.readline()
    await until(lambda: len(engine.aborted) == 1)
    engine.gate.set()
    assert json.loads(await staying)["usage"]["completion_tokens"] == 8
    await until(lambda: server.server.service.num_open == 0)


async def test_a_client_that_does_not_read_holds_the_stream_back(server, engine, until):
    """The server stops taking tokens once the sockets' buffers are full, instead of piling them up."""
    engine.answer = "x" * 200_000
    server.server.service.limits = server.server.service.limits._replace(max_model_len=1_000_000)
    body = json.dumps({"prompt": "hi", "stream": True, "max_tokens": 200_000}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.http_port, limit=1024)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readline()
    counts: list[int] = []

    def settled() -> bool:
        counts.append(engine.tokens_made)
        return len(counts) > 40 and counts[-1] == counts[-40] > 0

    await until(settled)
    assert counts[-1] < 150_000
    writer.close()
    await until(lambda: len(engine.aborted) == 1)


async def test_200_silent_connections_disturb_nobody(server, http):
    silent = [await asyncio.open_connection("127.0.0.1", server.server.http_port) for _ in range(200)]
    for _, writer in silent[:100]:
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost:")
    answers = await asyncio.gather(
        *(_ask(http, "/v1/completions", {"prompt": "hi", "max_tokens": 2}) for _ in range(20))
    )
    assert all(json.loads(answer)["usage"]["completion_tokens"] == 2 for answer in answers)
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost:"], ids=["nothing", "half a header"])
@pytest.mark.parametrize("served", [0, 1])
async def test_silent_connections_are_closed(sent, served):
    """Before the first request and between two."""
    runner = create_runner(create_app(Service(ServerArgs(model="m"))), keepalive=0.2)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    async with asyncio.timeout(10):
        for _ in range(served):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"ok")
        writer.write(sent)
        assert await reader.read() == b""
    writer.close()
    await runner.cleanup()


async def _ask(http: aiohttp.ClientSession, path: str, body: dict) -> bytes:
    async with http.post(path, json=body) as response:
        return await response.read()
