"""The gRPC port: health of the gateway's own, everything else through the proxy."""

import asyncio

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mii_gateway.channels import MESSAGE_OPTIONS
from mii_gateway.grpc_proxy import GrpcProxy
from mii_gateway.lifecycle import Lifecycle
from mii_gateway.replicas import ReplicaTable
from mii_gateway.tls import Tls

SERVICES = ("", "modelresponse.ModelResponse")
STOP_GRACE = 1.0  # seconds that last replies get to leave
# Seconds after which a client is asked to connect anew; its open calls go on. A server that stops cancels
# calls that are just arriving, so clients must have left before: a pod's preStop waits for longer than this.
CONNECTION_AGE = 5.0


class GrpcServer:
    def __init__(self, proxy: GrpcProxy, table: ReplicaTable, lifecycle: Lifecycle, tls: Tls | None) -> None:
        self._table = table
        self._lifecycle = lifecycle
        self._tls = tls
        self._changed = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        table.subscribe(self._changed.set)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = grpc.aio.server(options=_options())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers((proxy,))  # after health, so that it gets what is left

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Raises RuntimeError if it is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self._tls:
            bound = self._server.add_secure_port(address, self._tls.credentials)
        else:
            bound = self._server.add_insecure_port(address)
        await self._server.start()
        return bound

    async def publish_health(self) -> None:
        """Keeps grpc.health.v1 true; runs until cancelled."""
        while True:
            self._changed.clear()
            for service in SERVICES:
                await self._health.set(service, self._status())
            await self._changed.wait()

    async def drain(self, seconds: float) -> None:
        """Tells health watchers, then has clients leave (GOAWAY): no new calls; open ones get `seconds`."""
        await self._health.enter_graceful_shutdown()
        self._draining = asyncio.create_task(self._server.stop(seconds))

    async def stop(self) -> None:
        await self._server.stop(STOP_GRACE)
        if self._draining is not None:
            await self._draining

    def _status(self) -> "health_pb2.HealthCheckResponse.ServingStatus.ValueType":
        ready = self._table.ready and not self._lifecycle.draining
        response = health_pb2.HealthCheckResponse
        return response.SERVING if ready else response.NOT_SERVING


def _options() -> tuple[tuple[str, int], ...]:
    age = ("grpc.max_connection_age_ms", round(1000 * CONNECTION_AGE))
    return (*MESSAGE_OPTIONS, ("grpc.so_reuseport", 0), age)  # without sharing, a port in use is an error
