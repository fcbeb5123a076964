"""`mii-operator`: its life from the command line to exit.

watches (kopf) ─> store ─> queue ─> workers (the leader's alone) ─> API server
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Collection, Sequence

import kopf
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mii_operator import controller, handlers, log
from mii_operator.args import OperatorArgs
from mii_operator.facts import Capabilities, capabilities
from mii_operator.kube import Kube
from mii_operator.lease import Lease, Lost
from mii_operator.metrics import Metrics
from mii_operator.model_source import ModelSource
from mii_operator.reconcile import Reconciler
from mii_operator.scaler import Scaler
from mii_operator.store import Key, Store
from mii_operator.work_queue import WorkQueue
from mii_spec import launch
from mii_spec.spec import GROUP, KIND, VERSION

logger = logging.getLogger(__name__)

_CRD_PERIOD = 2.0  # seconds between looks for the custom resource's definition
_PATIENCE = 5.0  # seconds for the watches to end


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 after SIGTERM, 1 when another operator has taken over or a watch has failed."""
    words = sys.argv[1:] if argv is None else argv
    args = launch.parse(OperatorArgs, words)
    log.to_stderr(args.log_level)
    return asyncio.run(Operator(args).run())


class Operator:
    def __init__(self, args: OperatorArgs) -> None:
        self._args = args
        self._store = Store()
        self._queue: WorkQueue[Key] = WorkQueue()
        self.metrics = Metrics(lambda: filter(None, map(self._store.resource, self._store.resources())))

    async def run(self) -> int:
        async with Kube(self.metrics.request) as kube, self._endpoint():
            offered = await self._offered(kube)
            nodes = await controller.nodes_visible(kube)
            watches = await self._watch(_optional(offered), nodes)
            leading = asyncio.create_task(self._lead(kube, offered, nodes), name="leader")
            return await _until_one_ends(leading, watches)

    async def _watch(self, optional: list[tuple[str, str]], nodes: bool) -> Collection["asyncio.Task[None]"]:
        """kopf's tasks. They end with SIGTERM and SIGINT, and when one fails."""
        return await kopf.spawn_tasks(
            registry=handlers.registry(self._store, self._queue, optional=optional, nodes=nodes),
            settings=handlers.settings(),
            standalone=True,
            clusterwide=not self._args.namespace,
            namespaces=self._args.namespace,
        )

    async def _lead(self, kube: Kube, offered: Capabilities, nodes: bool) -> None:
        args = self._args
        namespace = args.lease_namespace or os.environ.get("POD_NAMESPACE", "default")
        lease = Lease(kube, namespace=namespace, name=args.lease_name, identity=_own_identity())
        await lease.acquire()
        self.metrics.leader.set(1)
        reconciler = Reconciler(
            kube=kube,
            store=self._store,
            models=ModelSource(self._args.hub_endpoint),
            images=self._args.images,
            offered=offered,
            nodes_visible=nodes,
        )
        optional = _optional(offered)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.hold())
                await self._fill(kube, optional, nodes)
                group.create_task(controller.work(self._queue, self._store, reconciler, self.metrics))
                group.create_task(Scaler(kube, self._store).run())
                group.create_task(self._resync(kube, optional, nodes))
        finally:
            self.metrics.leader.set(0)
            await lease.release()

    async def _resync(self, kube: Kube, optional: list[tuple[str, str]], nodes: bool) -> None:
        while True:
            await asyncio.sleep(controller.RESYNC)
            await self._fill(kube, optional, nodes)

    async def _fill(self, kube: Kube, optional: list[tuple[str, str]], nodes: bool) -> None:
        """Everything is looked at once the store is whole, and not before: half of it would look deleted."""
        namespaces = self._args.namespace
        await controller.fill(kube, self._store, namespaces=namespaces, optional=optional, nodes=nodes)
        for key in self._store.resources():
            self._queue.changed(key)

    async def _offered(self, kube: Kube) -> Capabilities:
        """Once the custom resource is defined, which may be after the operator was started."""
        groups = (GROUP, "policy", "monitoring.coreos.com", "autoscaling")
        while f"{GROUP}/{VERSION}/{KIND}" not in (kinds := await kube.kinds(*groups)):
            logger.warning("the API server has no %s.%s yet: install the CRD", KIND, GROUP)
            await asyncio.sleep(_CRD_PERIOD)
        return capabilities(kinds)

    @contextlib.asynccontextmanager
    async def _endpoint(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/healthz", _healthz)
        app.router.add_get("/metrics", self._exposition)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        port = self._args.metrics_port
        host = None if port else "127.0.0.1"  # everywhere would be one free port for IPv4, another for IPv6
        await web.TCPSite(runner, host, port).start()
        logger.info("/healthz and /metrics on port %d", runner.addresses[0][1])
        try:
            yield
        finally:
            await runner.cleanup()

    async def _exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _until_one_ends(leading: "asyncio.Task[None]", watches: Collection["asyncio.Task[None]"]) -> int:
    """Neither lives without the other; the leader goes first, with its lease. 0 if told to end."""
    done, _ = await asyncio.wait({leading, *watches}, return_when=asyncio.FIRST_COMPLETED)
    errors = [error for task in done if not task.cancelled() and (error := task.exception())]
    for error in errors:
        _report(error)
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)
    await _stop(watches)
    await _stop(asyncio.all_tasks() - {asyncio.current_task()})  # what kopf's tasks have started
    return 1 if errors else 0


async def _stop(tasks: Collection["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_PATIENCE)


def _report(error: BaseException) -> None:
    lost = error.subgroup(Lost) if isinstance(error, BaseExceptionGroup) else None
    if lost:
        logger.error("stops: %s", lost.exceptions[0])
    else:
        logger.error("stops: %s", error, exc_info=error)


def _optional(offered: Capabilities) -> list[tuple[str, str]]:
    """Kinds of children that not every API server has."""
    versions = (
        (offered.disruption_budget, "PodDisruptionBudget"),
        (offered.service_monitor, "ServiceMonitor"),
        (offered.autoscaler, "HorizontalPodAutoscaler"),
    )
    return [(version, kind) for version, kind in versions if version]


def _own_identity() -> str:
    """The pod's name, so that a container that was killed leads again at once; elsewhere one of our own."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"


if __name__ == "__main__":
    sys.exit(main())
