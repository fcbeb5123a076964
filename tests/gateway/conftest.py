"""Replicas that can be scripted, killed and revived, and a gateway in front of them, all in this process."""

import asyncio
import contextlib
import inspect
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from mii_gateway.app import listening
from mii_gateway.discovery import Discovery, StaticDiscovery, parse_replica
from mii_gateway.gateway import Gateway
from mii_gateway.listener import Listener
from mii_gateway.ports import create_app
from mii_spec.launch import GatewayArgs

HOST = "127.0.0.1"
MESSAGE_SIZES = [("grpc.max_send_message_length", 2**27), ("grpc.max_receive_message_length", 2**27)]


async def _until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Waits for a condition, which may be a coroutine's result; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not (await value if inspect.isawaitable(value := condition()) else value):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.002)


@dataclass
class Received:
    method: str
    target: str
    headers: Any
    body: bytes


class FakeReplica(grpc.GenericRpcHandler):
    """A model server's outside. `respond` and `respond_grpc` are what it does with requests."""

    def __init__(self) -> None:
        self.ready = True
        self.info: dict[str, Any] | None = None  # what /v1/info says
        self.requests: list[Received] = []
        self.calls: list[tuple[str, Any]] = []
        self.left = 0  # requests whose client went away
        self.respond: Callable[[web.Request], Awaitable[web.StreamResponse]] = self._say_who
        self.respond_grpc: Callable[[Any, Any], Any] = self._echo
        self.answer_unary: Callable[[bytes], Awaitable[bytes]] | None = None  # instead of respond_grpc
        self.http_port = 0
        self.grpc_port = 0

    @property
    def name(self) -> str:
        return f"{HOST}:{self.http_port}"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.http_port}/{self.grpc_port}"

    async def start(self) -> None:
        """Listens, on the same ports as before if it was killed."""
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health/ready", self._health)
        app.router.add_get("/v1/info", self._info)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, auto_decompress=False, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self.http_port)
        await site.start()
        self.http_port = self._runner.addresses[0][1]
        self._grpc = grpc.aio.server(options=[("grpc.so_reuseport", 0), *MESSAGE_SIZES])
        self._grpc.add_generic_rpc_handlers((self,))
        self.grpc_port = self._grpc.add_insecure_port(f"{HOST}:{self.grpc_port}")
        await self._grpc.start()

    async def kill(self) -> None:
        """As SIGKILL does: every connection breaks, and nobody listens."""
        if self._runner.server is None:
            return
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.gather(self._runner.cleanup(), self._grpc.stop(None))

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def handle(messages: Any, context: Any) -> None:
            self.calls.append((details.method, dict(context.invocation_metadata())))
            try:
                await self.respond_grpc(messages, context)
            except asyncio.CancelledError:
                self.left += 1
                raise

        async def handle_unary(message: bytes, context: Any) -> bytes:
            self.calls.append((details.method, dict(context.invocation_metadata())))
            return await self.answer_unary(message)

        if self.answer_unary:
            return grpc.unary_unary_rpc_method_handler(handle_unary)
        return grpc.stream_stream_rpc_method_handler(handle)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready else 503)

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(self.info, status=404 if self.info is None else 200)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Received(request.method, request.raw_path, request.headers, body))
        try:
            return await self.respond(request)
        except asyncio.CancelledError:
            self.left += 1
            raise

    async def _say_who(self, request: web.Request) -> web.Response:
        return web.json_response({"replica": self.name})

    async def _echo(self, messages: Any, context: Any) -> None:
        async for message in messages:
            await context.write(message)


@dataclass
class RunningGateway:
    gateway: Gateway
    main: Listener
    url: str
    probe_url: str
    grpc_target: str
    session: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def post(self, path: str = "/v1/completions", **kwargs: Any) -> Any:
        return self.session.post(self.url + path, **({"json": {"prompt": "hi"}} | kwargs))

    async def answer(self, path: str = "/v1/completions", **kwargs: Any) -> tuple[int, Any]:
        """Status and JSON of one request."""
        async with self.post(path, **kwargs) as response:
            return response.status, json.loads(await response.read())

    async def metric(self, sample: str) -> float:
        """The value of the line that starts with `sample`; 0 if there is none."""
        async with self.session.get(self.probe_url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(sample + " ")), 0.0)

    @property
    def in_flight(self) -> int:
        return sum(replica.streams for replica in self.gateway.table.all())


@pytest.fixture
def until():
    return _until


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def start_replica(stack):
    async def start() -> FakeReplica:
        replica = FakeReplica()
        await replica.start()
        stack.push_async_callback(replica.kill)
        return replica

    return start


@pytest.fixture
def start_gateway(stack):
    async def start(
        *replicas: FakeReplica,
        addresses: tuple[str, ...] = (),
        wait: bool = True,
        discovery: Discovery | None = None,
        **options: Any,
    ) -> RunningGateway:
        options = {"health_interval": 0.1, "queue_timeout": 5.0, "drain_timeout": 5.0} | options
        addresses += tuple(replica.address for replica in replicas)
        args = GatewayArgs(
            deployment_name="demo", port=0, grpc_port=0, probe_port=0, replica=addresses, **options
        )
        gateway = Gateway(args, discovery or StaticDiscovery(map(parse_replica, addresses)))
        main = Listener(create_app(gateway))
        ports = await stack.enter_async_context(listening(gateway, main))
        running = asyncio.create_task(gateway.run())
        stack.callback(running.cancel)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if wait:
            ready = sum(replica.ready for replica in replicas)
            await _until(lambda: gateway.table.count()["ready"] == ready)
        url, probe_url = (f"http://{HOST}:{port}" for port in (ports.http, ports.probe))
        return RunningGateway(gateway, main, url, probe_url, f"{HOST}:{ports.grpc}", session)

    return start


@pytest.fixture
def channel(stack):
    """Opens a client's channel to a gRPC target."""

    async def connect(target: str) -> grpc.aio.Channel:
        return await stack.enter_async_context(grpc.aio.insecure_channel(target, options=MESSAGE_SIZES))

    return connect
