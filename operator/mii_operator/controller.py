"""The work of the leader: workers that reconcile what the queue holds, and a regular look at everything."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

import aiohttp

from mii_operator.handlers import CHILDREN, NODE, OURS, POD, RESOURCE
from mii_operator.kube import ApiError, Kube
from mii_operator.metrics import Metrics
from mii_operator.reconcile import Reconciler
from mii_operator.store import Key, Store
from mii_operator.work_queue import WorkQueue

log = logging.getLogger(__name__)

WORKERS = 8
RESYNC = 600.0  # seconds between two looks at everything
_LABELS = ",".join(f"{key}={value}" for key, value in OURS.items())


async def fill(
    kube: Kube, store: Store, *, namespaces: Sequence[str], optional: Iterable[tuple[str, str]], nodes: bool
) -> set[Key]:
    """Lists what is watched into the store; the resources that something was news about."""
    touched: set[Key] = set()
    scopes: Sequence[str | None] = namespaces or (None,)
    ours = [(kind, _LABELS) for kind in (*CHILDREN, *optional)]
    everything = [(POD, ""), (RESOURCE, "")]
    for (api_version, kind), labels in ours + everything:
        before = store.known(kind)
        found = [i for scope in scopes for i in await kube.list(api_version, kind, scope, labels=labels)]
        touched |= store.replace(kind, found, before)
    if nodes:
        before = store.known("Node")
        store.replace("Node", await kube.list(*NODE), before)
    return touched


async def nodes_visible(kube: Kube) -> bool:
    """Whether this operator may list nodes. One that serves a few namespaces alone may not."""
    try:
        await kube.list(*NODE, limit=1)
    except ApiError as error:
        if error.code == 403:
            return False
        raise
    return True


async def work(queue: WorkQueue[Key], store: Store, reconciler: Reconciler, metrics: Metrics) -> None:
    """Runs until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(_worker(queue, store, reconciler, metrics))


async def _worker(queue: WorkQueue[Key], store: Store, reconciler: Reconciler, metrics: Metrics) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        key, changed_at = await queue.take()
        started = clock()
        try:
            again = await reconciler.reconcile(key)
        except Exception as error:  # one resource's failure is not the others'
            metrics.failures.inc()
            _report(key, error, queue.failed(key))
            continue
        finally:
            metrics.duration.observe(clock() - started)
        if changed_at is not None:
            metrics.latency.observe(clock() - changed_at)
        if store.resource(key) is None:
            queue.forget(key)
        queue.done(key)
        if again is not None:
            queue.later(key, again)


def _report(key: Key, error: Exception, delay: float) -> None:
    """Failures of the network and of the API server pass; others are our own."""
    expected = isinstance(error, ApiError | aiohttp.ClientError | TimeoutError)
    what = f"{type(error).__name__}: {error}"
    log.warning("%s/%s: %s; again in %g s", *key, what, delay, exc_info=None if expected else error)
