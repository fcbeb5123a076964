"""The gateway as one object: its parts, wired.

HTTP ─> HttpProxy ──┐                            ┌─> replica
                    ├─> Dispatcher ─> queue ─────┼─> replica
gRPC ─> GrpcProxy ──┘       balance(table) <─────┴── HealthChecks <── Discovery
"""

import asyncio
from pathlib import Path

import aiohttp

from mii_gateway.activity import Activity
from mii_gateway.channels import ChannelPool
from mii_gateway.discovery import Discovery
from mii_gateway.dispatch import Dispatcher
from mii_gateway.grpc_call import GrpcUpstream
from mii_gateway.grpc_proxy import GrpcProxy
from mii_gateway.grpc_server import GrpcServer
from mii_gateway.health import HealthChecks
from mii_gateway.keys import KeyRing
from mii_gateway.lifecycle import Lifecycle
from mii_gateway.metrics import Metrics
from mii_gateway.owner import Owner
from mii_gateway.pool import Pool
from mii_gateway.proxy import HttpProxy, Limits
from mii_gateway.queue import ReplicaQueue
from mii_gateway.record import Recorder
from mii_gateway.replicas import ReplicaTable
from mii_gateway.retry import RetryBudget
from mii_gateway.tls import Tls
from mii_gateway.upstream import HttpUpstream
from mii_spec.launch import GatewayArgs


class Gateway:
    """Built on a running event loop; serves while `run` runs."""

    def __init__(self, args: GatewayArgs, discovery: Discovery) -> None:
        self.args = args
        self.lifecycle = Lifecycle()
        self.table = ReplicaTable(args.routing)
        self.activity = Activity()
        self._discovery = discovery
        self._keys = KeyRing(Path(args.api_keys_dir) if args.api_keys_dir else None)
        self.tls = Tls(Path(args.tls_dir)) if args.tls_dir else None
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))  # for health checks
        self._pool = Pool(args.connect_timeout)
        self._channels = ChannelPool(self.table, args.connect_timeout)
        self._checks = HealthChecks(
            self.table, self._session, interval=args.health_interval, timeout=args.connect_timeout
        )
        self.queue = ReplicaQueue(
            self.table, max_requests=args.queue_max_requests, timeout=args.queue_timeout
        )
        self.metrics = Metrics(self.table, self.queue)
        recorder = Recorder(self.metrics, self.lifecycle)
        dispatcher = Dispatcher(self.table, self.queue, RetryBudget(), self.activity, self.metrics)
        self.http = HttpProxy(
            HttpUpstream(self._pool, args.idle_timeout),
            dispatcher,
            recorder,
            self.lifecycle,
            self._keys,
            Limits(
                deployment_name=args.deployment_name,
                max_body_bytes=args.max_body_bytes,
                idle_timeout=args.idle_timeout,
            ),
        )
        grpc_proxy = GrpcProxy(
            GrpcUpstream(self._channels, dispatcher, idle_timeout=args.idle_timeout),
            dispatcher,
            recorder,
            self.lifecycle,
            Owner(args.owner_token_file),
            self._keys,
            replay_bytes=args.max_body_bytes,
        )
        self.grpc = GrpcServer(grpc_proxy, self.table, self.lifecycle, self.tls)

    async def run(self) -> None:
        """Follows the replicas until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._checks.run(self._discovery))
            group.create_task(self.grpc.publish_health())
            group.create_task(self._keys.follow())
            if self.tls:
                group.create_task(self.tls.follow())

    async def close(self) -> None:
        """Closes what leads to replicas."""
        await self._channels.close()
        self._pool.close()
        await self._session.close()
