"""A scripted model server: HTTP and gRPC, with known delays, errors and chunk sizes."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from aiohttp import web

from mii.server.proto import modelresponse_pb2 as pb
from mii.server.proto.modelresponse_pb2_grpc import ModelResponseServicer, add_ModelResponseServicer_to_server

MODEL = "fake/model"


@dataclass
class Script:
    """How the server behaves, and what it saw."""

    first_delay: float = 0.0  # seconds from request to first token
    gap: float = 0.0  # seconds between chunks
    tokens_per_chunk: int = 1
    text: str = "word "
    vocab_size: int | None = 1000
    max_model_len: int = 4096
    fail: Callable[[int], bool] = lambda index: False  # 400 for the index-th request
    finish_reason: str = "length"
    break_off: bool = False  # end the stream without [DONE]
    endless: bool = False  # stream until the client leaves
    endless_after: int | None = None  # the same from this many requests on
    cached_tokens: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    cancelled: int = 0

    async def chunks(self, tokens: int) -> AsyncIterator[int]:
        """Numbers of tokens, each at its time."""
        endless = self.endless or (self.endless_after is not None and len(self.requests) > self.endless_after)
        start = time.perf_counter()
        at = self.first_delay
        left = tokens
        while left > 0 or endless:
            await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
            count = self.tokens_per_chunk if endless else min(self.tokens_per_chunk, left)
            left -= count
            at += self.gap
            yield count


class FakeServer(ModelResponseServicer):
    def __init__(self, script: Script) -> None:
        self.script = script
        self.url = ""
        self.grpc_address = ""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/info", self.info)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.completions)
        app.router.add_post("/mii/{name}", self.mii)
        return app

    async def start_http(self) -> web.AppRunner:
        runner = web.AppRunner(self.app(), handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def info(self, request: web.Request) -> web.Response:
        if self.script.vocab_size is None:
            raise web.HTTPNotFound
        info = {"vocab_size": self.script.vocab_size, "max_model_len": self.script.max_model_len}
        return web.json_response({"device": "fake", "deployment_name": "fake-deployment", **info})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._accept(request)
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        prompt_tokens = len(prompt) if isinstance(prompt, list) else len(prompt.split())
        if self.script.fail(len(self.script.requests) - 1):
            return self._failure()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chat = "messages" in body
        self.script.running += 1
        self.script.most_running = max(self.script.most_running, self.script.running)
        try:
            if chat:  # the role's chunk carries no text and must not count as the first token
                await self._event(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            async for count in self.script.chunks(body.get("max_tokens", 16)):
                text = self.script.text * count
                choice = {"delta": {"content": text}} if chat else {"text": text}
                await self._event(response, {"choices": [{"index": 0, **choice, "finish_reason": None}]})
        except (asyncio.CancelledError, ConnectionResetError):
            self.script.cancelled += 1
            raise
        finally:
            self.script.running -= 1
        if self.script.break_off:
            return response
        last = {"index": 0, "finish_reason": self.script.finish_reason, "text": ""}
        await self._event(response, {"choices": [last]})
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": body.get("max_tokens", 16)}
        usage["prompt_tokens_details"] = {"cached_tokens": self.script.cached_tokens}
        await self._event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def mii(self, request: web.Request) -> web.Response:
        body = await self._accept(request)
        if self.script.fail(len(self.script.requests) - 1):
            return self._failure()
        await asyncio.sleep(self.script.first_delay)
        counts = {"prompt_length": len(body["prompts"].split()), "generated_length": body["max_new_tokens"]}
        return web.json_response([{"generated_text": "x", "finish_reason": "length", **counts}])

    async def GeneratorReplyStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        options = {name: _plain(value) for name, value in request.query_kwargs.items()}
        self.script.requests.append({"prompt": request.request[0], **options})
        if self.script.fail(len(self.script.requests) - 1):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "scripted failure")
        wanted, done = options["max_new_tokens"], 0
        async for count in self.script.chunks(wanted):
            done += count
            reply = pb.SingleGenerationReply(
                response=self.script.text * count,
                finish_reason="length" if done == wanted else "none",
                prompt_tokens=len(request.request[0].split()),
                generated_tokens=done,
            )
            yield pb.MultiGenerationReply(response=[reply])

    def _failure(self) -> web.Response:
        return web.json_response({"error": {"message": "scripted failure"}}, status=400)

    async def _accept(self, request: web.Request) -> dict[str, Any]:
        body = await request.json()
        self.script.requests.append(body)
        self.script.headers.append(dict(request.headers))
        return body

    async def _event(self, response: web.StreamResponse, payload: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(payload).encode() + b"\n\n")


def _plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("oneof_values"))


@pytest.fixture
def script() -> Script:
    """Set its fields before or between requests."""
    return Script()


@pytest.fixture
async def server(script: Script) -> AsyncIterator[FakeServer]:
    """On the test's own event loop, HTTP and gRPC."""
    fake = FakeServer(script)
    runner = await fake.start_http()
    rpc = grpc.aio.server()
    add_ModelResponseServicer_to_server(fake, rpc)
    fake.grpc_address = f"127.0.0.1:{rpc.add_insecure_port('127.0.0.1:0')}"
    await rpc.start()
    yield fake
    await rpc.stop(None)
    await runner.cleanup()


@pytest.fixture
def server_in_thread(script: Script) -> Iterator[FakeServer]:
    """HTTP only, on a loop of its own: for commands that run their own loop."""
    fake = FakeServer(script)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(fake.start_http(), loop).result(10)
    yield fake
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
