"""Listening, loading, draining, dying: what probes and clients see, and how the process ends."""

import asyncio
import json
import os
import signal

import aiohttp
import pytest

from mii.core import Health
from mii.errors import ModelLoadError
from mii.server import serve
from mii.server.serve import Server, engine_config
from mii_spec.launch import ServerArgs

BODY = {"prompt": "hi", "max_tokens": 8}
STREAM = BODY | {"stream": True}


@pytest.fixture
def get():
    async def get(server, path):
        async with aiohttp.ClientSession(server.url) as http, http.get(path) as response:
            return response.status, await response.text()

    return get


async def test_listens_before_the_model_is_loaded(start_server, get, until):
    loaded = asyncio.Event()
    server = await start_server(loaded=loaded.wait())
    assert (await get(server, "/health/live"))[0] == 200
    status, text = await get(server, "/health/ready")
    assert (status, json.loads(text)["reason"]) == (503, "the model is being loaded")
    async with (
        aiohttp.ClientSession(server.url) as http,
        http.post("/v1/completions", json=BODY) as response,
    ):
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert "being loaded" in (await response.json())["error"]["message"]
    assert (await get(server, "/v1/models"))[0] == 503
    loaded.set()
    await until(lambda: server.server.service.ready)
    assert (await get(server, "/health/ready"))[0] == 200


@pytest.mark.parametrize(
    "error", [ModelLoadError("model.safetensors: tensor 'x' is missing"), RuntimeError("no GPU")]
)
async def test_a_model_that_does_not_load_ends_the_process(error, caplog):
    async def fail(_):
        raise error

    assert await Server(ServerArgs(model="m", port=0, grpc_port=0), fail).run() == 1
    assert str(error) in caplog.text


async def test_a_taken_port_ends_the_process(server, caplog):
    args = ServerArgs(model="m", port=server.server.http_port, grpc_port=0)
    assert await Server(args, None).run() == 1
    assert "cannot listen" in caplog.text


async def test_a_taken_grpc_port_ends_the_process(server, caplog):
    args = ServerArgs(model="m", port=0, grpc_port=server.server.grpc_port)
    assert await Server(args, None).run() == 1
    assert "cannot listen" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_loading_ends_the_process(start_server, number):
    server = await start_server(loaded=asyncio.Event().wait())
    os.kill(os.getpid(), number)
    assert await server.task == 0


async def test_sigterm_lets_32_streams_finish(server, engine, until, sse, get):
    engine.held_from = 2
    engine.gate.clear()

    async def stream(http):
        async with http.post("/v1/completions", json=STREAM) as response:
            return [event async for event in sse(response)]

    async with aiohttp.ClientSession(server.url) as http:
        streams = [asyncio.create_task(stream(http)) for _ in range(32)]
        await until(lambda: len(engine.running) == 32)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: not server.server.service.ready)
        status, text = await get(server, "/health/ready")
        assert (status, "shutting down" in text) == (503, True)
        assert (await get(server, "/health/live"))[0] == 200
        assert not server.task.done()
        engine.gate.set()
        for events in await asyncio.gather(*streams):
            assert events[-1] == "[DONE]"
            assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert await server.task == 0
    assert engine.stopped
    assert engine.aborted == []


async def test_whole_answers_finish_while_draining(server, engine, until):
    engine.gate.clear()
    async with aiohttp.ClientSession(server.url) as http:
        asking = asyncio.create_task(http.post("/v1/completions", json=BODY))
        await until(lambda: engine.running)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: not server.server.service.ready)
        engine.gate.set()
        response = await asking
        assert (await response.json())["usage"]["completion_tokens"] == 8
    assert await server.task == 0


async def test_kept_connections_are_refused_and_closed_while_draining(server, engine, until, http):
    async with http.post("/v1/completions", json=BODY) as response:  # a connection that stays open
        await response.read()
    engine.gate.clear()
    running = asyncio.create_task(http.post("/v1/completions", json=BODY))
    await until(lambda: engine.running)
    server.server.service.stop_requested.set()
    await until(lambda: not server.server.service.ready)
    async with http.post("/v1/completions", json=BODY) as response:
        assert response.status == 503
        assert response.headers["Connection"] == "close"
        assert "shutting down" in (await response.json())["error"]["message"]
    engine.gate.set()
    assert (await running).status == 200


async def test_drain_timeout_ends_what_is_left_with_an_error(start_server, engine, until, sse, caplog):
    server = await start_server(drain_timeout=0.1)
    engine.held_from = 2
    engine.gate.clear()
    async with (
        aiohttp.ClientSession(server.url) as http,
        http.post("/v1/completions", json=STREAM) as response,
    ):
        server.server.service.stop_requested.set()
        events = [event async for event in sse(response)]
    assert "stopped" in events[-1]["error"]["message"]
    assert await server.task == 0
    assert "did not end within drain_timeout" in caplog.text


async def test_a_second_sigint_ends_at_once(server, engine, until):
    engine.gate.clear()
    async with aiohttp.ClientSession(server.url) as http:
        asking = asyncio.create_task(http.post("/v1/completions", json=BODY))
        await until(lambda: engine.running)
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: not server.server.service.ready)
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(3):
            assert await server.task == 130
        await asyncio.gather(asking, return_exceptions=True)
    assert engine.stopped


async def test_a_dead_engine_ends_requests_then_the_process(server, engine, until, sse, get, monkeypatch):
    monkeypatch.setattr(serve, "DEAD_SECONDS", 1.0)
    engine.held_from = 2
    engine.gate.clear()
    async with aiohttp.ClientSession(server.url) as http:
        streaming = await http.post("/v1/completions", json=STREAM)
        whole = asyncio.create_task(http.post("/v1/completions", json=BODY))
        await until(lambda: len(engine.running) == 2)
        engine.die("killed by SIGKILL")
        events = [event async for event in sse(streaming)]
        assert "killed by SIGKILL" in events[-1]["error"]["message"]
        response = await whole
        assert response.status == 503
        assert "killed by SIGKILL" in (await response.json())["error"]["message"]
        for path in ("/health/live", "/health/ready", "/v1/models"):
            status, text = await get(server, path)
            assert (status, "killed by SIGKILL" in text) == (503, True)
        async with http.post("/v1/completions", json=BODY) as response:
            assert response.status == 503
    assert await server.task == 1


async def test_a_stalled_engine_fails_its_probes(server, engine, get):
    engine.health = Health(alive=False, reason="no step for 60 s")
    for path in ("/health/live", "/health/ready"):
        status, text = await get(server, path)
        assert (status, json.loads(text)["reason"]) == (503, "no step for 60 s")


def test_run_reports_the_exit_code_of_a_loop_of_its_own(monkeypatch):
    loops = []

    async def fail(_):
        loops.append(type(asyncio.get_running_loop()).__module__)
        raise ModelLoadError("no such model")

    monkeypatch.setattr(serve, "_start_async_engine", fail)
    assert serve.run(ServerArgs(model="m", port=0, grpc_port=0)) == 1
    assert loops == ["uvloop"]


def test_engine_config_is_the_engines_part_of_the_command_line():
    config = engine_config(ServerArgs(model="m", kv_blocks=7, prefix_cache=False, dtype="bfloat16"))
    assert (config.model, config.kv_blocks, config.prefix_cache, config.dtype) == ("m", 7, False, "bfloat16")
