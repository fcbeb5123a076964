"""The life of one model server process: listen, load, serve, drain, exit code."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import uvloop
from aiohttp import web

from mii.config import EngineConfig
from mii.errors import MIIError
from mii.server.app import create_app, create_runner
from mii.server.backend import Backend
from mii.server.grpc_server import GrpcServer
from mii.server.service import Service
from mii_spec.launch import ServerArgs

log = logging.getLogger(__name__)

DEAD_SECONDS = 2.0  # a dead engine's server goes on failing its probes for so long before it exits
CLOSE_SECONDS = 5.0  # for the last bytes of finished requests
BACKLOG = 1024
FAILED = 1
INTERRUPTED = 128 + signal.SIGINT

T = TypeVar("T")
StartEngine = Callable[[EngineConfig], Awaitable[Backend]]


def run(args: ServerArgs) -> int:
    """`mii serve`: runs a server on an event loop of its own and returns the exit code."""
    level = args.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return uvloop.run(serve(args))


async def serve(args: ServerArgs) -> int:
    """Serves until SIGTERM, SIGINT or Terminate (exit code 0), or until the engine fails (1)."""
    return await Server(args, _start_async_engine).run()


def engine_config(args: ServerArgs) -> EngineConfig:
    """The part of the command line that is the engine's."""
    return EngineConfig(**{name: getattr(args, name) for name in EngineConfig.__struct_fields__})


async def _start_async_engine(config: EngineConfig) -> Backend:
    from mii.engine.async_engine import AsyncEngine  # slow to import: the server listens already

    return await AsyncEngine.start(config)


class Server:
    """HTTP and gRPC in front of one engine. `http_port` and `grpc_port` are set once it listens."""

    http_port: int | None = None
    grpc_port: int | None = None

    def __init__(self, args: ServerArgs, start_engine: StartEngine) -> None:
        self.service = Service(args)
        self._args = args
        self._start_engine = start_engine
        self._grpc = GrpcServer(self.service)
        self._quit = asyncio.Event()

    async def run(self) -> int:
        """Returns the exit code: 0 after a drain, 1 when the engine failed, 130 after a second SIGINT."""
        async with AsyncExitStack() as closing:
            try:
                await self._listen(closing)
            except (OSError, RuntimeError) as error:
                log.error("cannot listen on %s: %s", self._args.host, error)
                return FAILED
            self._handle_signals(closing)
            code = await unless(self._quit, self._live(closing))
            return INTERRUPTED if code is None else code

    async def _listen(self, closing: AsyncExitStack) -> None:
        runner = create_runner(create_app(self.service))
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._args.host, self._args.port, backlog=BACKLOG).start()
        closing.push_async_callback(self._grpc.stop, CLOSE_SECONDS)
        self.grpc_port = await self._grpc.start(self._args.host, self._args.grpc_port)
        self.http_port = runner.addresses[0][1]
        log.info(
            "listening on http://%s:%d and gRPC port %d", self._args.host, self.http_port, self.grpc_port
        )

    def _handle_signals(self, closing: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
            closing.callback(loop.remove_signal_handler, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGINT and self.service.stop_requested.is_set():
            self._quit.set()
        self.service.stop_requested.set()

    async def _live(self, closing: AsyncExitStack) -> int:
        try:
            engine = await unless(self.service.stop_requested, self._start_engine(engine_config(self._args)))
        except MIIError as error:
            log.error("cannot load the model: %s", error)
            return FAILED
        except Exception:
            log.exception("cannot start the engine for %s", self._args.model)
            return FAILED
        if engine is None:
            return 0
        closing.push_async_callback(engine.stop)  # runs first: what is still open then ends with an error
        return await self._serve(engine)

    async def _serve(self, engine: Backend) -> int:
        self.service.attach(engine)
        await self._grpc.set_serving(True)
        log.info("ready: %s as %s", self.service.model_name, self.service.deployment_name)
        reason = await unless(self.service.stop_requested, engine.wait_dead())
        await self._grpc.set_serving(False)
        if reason is None:
            return await self._drain(engine)
        log.error("the engine has died: %s", reason)
        self.service.fail(reason)
        await unless(self.service.stop_requested, asyncio.sleep(DEAD_SECONDS))
        return FAILED

    async def _drain(self, engine: Backend) -> int:
        """Refuses what is new and waits for what is open."""
        self.service.drain()
        log.info("draining: %d requests open", self.service.num_open)
        try:
            async with asyncio.timeout(self._args.drain_timeout):
                await self.service.wait_idle()
        except TimeoutError:
            log.warning("%d requests did not end within drain_timeout", self.service.num_open)
        return 0 if engine.health.alive else FAILED


async def unless(event: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`; or None if `event` is set before, and `work` is cancelled."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
