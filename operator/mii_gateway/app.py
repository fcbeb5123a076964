"""`mii-gateway`: its life from the command line to exit."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

from mii_gateway.discovery import Discovery, StaticDiscovery, parse_replica
from mii_gateway.gateway import Gateway
from mii_gateway.kube import in_cluster, own_namespace
from mii_gateway.kube_discovery import EndpointsDiscovery
from mii_gateway.lifecycle import Lifecycle
from mii_gateway.listener import Listener
from mii_gateway.log import logging_to_stderr
from mii_gateway.ports import create_app, create_probe_app
from mii_gateway.tls import Tls
from mii_spec import launch
from mii_spec.launch import GatewayArgs

# gc.set_threshold's. Requests leave next to no cycles behind, and a full collection holds 2,000 streams up
# for 30 ms: with these it comes once in ten minutes at 250 requests/s.
COLLECT_AFTER = (5_000, 4, 1_000)

LINGER = 5.0  # seconds that connections without a request stay open in a drain
LOOK_EVERY = 0.05  # seconds between looks at who is left

log = logging.getLogger(__name__)


class Ports(NamedTuple):
    http: int
    grpc: int
    probe: int


@contextlib.asynccontextmanager
async def listening(gateway: Gateway, main: Listener) -> AsyncIterator[Ports]:
    """The three ports open, `main` on HTTP's. Raises OSError or RuntimeError if one is taken."""
    args, probe = gateway.args, Listener(create_probe_app(gateway))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(probe.stop)
        probe_port = await probe.start(args.host, args.probe_port)
        stack.push_async_callback(gateway.grpc.stop)
        grpc_port = await gateway.grpc.start(args.host, args.grpc_port)
        stack.push_async_callback(main.stop)
        http_port = await main.start(args.host, args.port, gateway.tls.context if gateway.tls else None)
        gateway.lifecycle.subscribe(main.close)
        yield Ports(http_port, grpc_port, probe_port)


async def serve(args: GatewayArgs, discovery: Discovery) -> int:
    """Runs until SIGTERM, SIGINT or an owner's Terminate, then drains. Returns the exit code."""
    gateway = Gateway(args, discovery)
    main = Listener(create_app(gateway))
    hurry = _handle_signals(gateway)
    async with listening(gateway, main) as ports, asyncio.TaskGroup() as group:
        log.info("listening", extra={"fields": ports._asdict()})
        running = group.create_task(gateway.run())
        await gateway.lifecycle.terminated()
        await drain(gateway, main, hurry)
        running.cancel()
    return 0


async def drain(gateway: Gateway, main: Listener, hurry: asyncio.Event) -> None:
    """Lets open requests end and clients leave, for at most the drain timeout.

    New connections are refused and old ones closed after an answer, so that clients who never pause cannot
    keep it open. In a cluster nobody connects any more by then: the pod's preStop has waited for that.
    """
    log.info("draining", extra={"fields": {"open": gateway.lifecycle.open}})
    await gateway.grpc.drain(gateway.args.drain_timeout)
    waits = {asyncio.create_task(_left(gateway.lifecycle, main)), asyncio.create_task(hurry.wait())}
    _, pending = await asyncio.wait(
        waits, timeout=gateway.args.drain_timeout, return_when=asyncio.FIRST_COMPLETED
    )
    for task in pending:
        task.cancel()
    log.info("drained", extra={"fields": {"cut": gateway.lifecycle.open}})


async def _left(lifecycle: Lifecycle, main: Listener) -> None:
    """Returns when no request is open and no connection, or nobody has used one for LINGER seconds.

    Whoever sends a request while his connection is being closed loses it, and must not send it again unless
    he knows that it does no harm twice. So a connection is closed by an answer, or when it is not in use.
    """
    while lifecycle.open or (main.connections and lifecycle.quiet < LINGER):  # noqa: ASYNC110 - aiohttp's too
        await asyncio.sleep(LOOK_EVERY)


def _handle_signals(gateway: Gateway) -> asyncio.Event:
    """SIGTERM and SIGINT drain; a second SIGINT sets the event returned, which ends the drain."""
    hurry = asyncio.Event()
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if interrupted:
            hurry.set()
        interrupted = True
        gateway.lifecycle.terminate()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, gateway.lifecycle.terminate)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    return hurry


def check(args: GatewayArgs) -> None:
    """Raises ValueError on what would only show later."""
    if bool(args.replica) == bool(args.endpoints_service):
        raise ValueError(
            "--replica: give at least one, as HTTP_HOST:PORT/GRPC_PORT, or --endpoints-service, not both"
        )
    if args.namespace and not args.endpoints_service:
        raise ValueError("--namespace: only with --endpoints-service")
    for name in ("api_keys_dir", "tls_dir"):
        folder = getattr(args, name)
        if folder is not None and not os.path.isdir(folder):
            raise ValueError(f"{launch.flag(name)}: {folder} is not a folder")
    if args.tls_dir is not None:
        try:
            Tls(Path(args.tls_dir))
        except (OSError, KeyError) as error:
            raise ValueError(f"--tls-dir: tls.crt and tls.key there are unusable: {error!r}") from error
    for name in ("queue_timeout", "connect_timeout", "idle_timeout", "health_interval"):
        if getattr(args, name) <= 0:
            raise ValueError(f"{launch.flag(name)}: must be more than 0 seconds")


def discover(args: GatewayArgs, environment: Mapping[str, str]) -> Discovery:
    """Raises ValueError if the replicas cannot be found this way."""
    if not args.endpoints_service:
        return StaticDiscovery(map(parse_replica, args.replica))
    try:
        api, namespace = in_cluster(environment), args.namespace or own_namespace()
    except ValueError as error:
        raise ValueError(f"--endpoints-service: {error}") from error
    return EndpointsDiscovery(api, namespace=namespace, service=args.endpoints_service)


def main(argv: Sequence[str] | None = None) -> None:
    """The console script."""
    args = launch.parse(GatewayArgs, sys.argv[1:] if argv is None else argv)
    try:
        check(args)
        discovery = discover(args, os.environ)
    except ValueError as error:
        sys.exit(f"mii-gateway: {error}")
    _raise_open_files()
    _collect_rarely()
    with logging_to_stderr(args.log_level):
        try:
            code = uvloop.run(serve(args, discovery))
        except (OSError, RuntimeError) as error:
            sys.exit(f"mii-gateway: cannot listen: {error}")
    sys.exit(code)


def _raise_open_files() -> None:
    """A stream takes two sockets, and the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_rarely() -> None:
    """What has been loaded until now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


if __name__ == "__main__":
    main()
