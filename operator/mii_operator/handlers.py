"""kopf's low-level event handlers: what a watch tells goes to the store, whom it concerns to the queue.

They return at once and write nothing: no finalizer, no annotation.
"""

from collections.abc import Iterable
from typing import Any

import kopf

from mii_operator import constants, kube
from mii_operator.memoryless import NoDiffBase, NoProgress
from mii_operator.store import MANAGED_BY, Key, Store
from mii_operator.work_queue import WorkQueue
from mii_spec.spec import GROUP, PLURAL, VERSION

OURS = {MANAGED_BY: constants.MANAGED_BY}
# apiVersion and kind of children, watched where they carry the label.
CHILDREN = (
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
)
RESOURCE = (f"{GROUP}/{VERSION}", constants.KIND)
POD = ("v1", "Pod")
NODE = ("v1", "Node")


def registry(
    store: Store, queue: WorkQueue[Key], *, optional: Iterable[tuple[str, str]], nodes: bool
) -> kopf.OperatorRegistry:
    """Handlers for one operator; `optional` are further kinds of children that this API server has."""
    handlers = kopf.OperatorRegistry()
    kopf.on.login(registry=handlers)(kube.login)
    kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)(_noting(*RESOURCE, store, queue))
    for api_version, kind in (*CHILDREN, *optional):
        watch = kopf.on.event(*_selector(api_version, kind), labels=OURS, registry=handlers)
        watch(_noting(api_version, kind, store, queue))
    # All of them, as any pod may hold a GPU.
    kopf.on.event(*_selector(*POD), registry=handlers)(_noting(*POD, store, queue))
    if nodes:
        kopf.on.event(*_selector(*NODE), registry=handlers)(_noting_nodes(store, queue))
    return handlers


def settings() -> kopf.OperatorSettings:
    """No peering (a Lease elects the leader), no posting of logs, no watching of CRDs and namespaces."""
    made = kopf.OperatorSettings()
    made.peering.standalone = True
    made.posting.enabled = False
    made.scanning.disabled = True
    made.persistence.diffbase_storage = NoDiffBase()
    made.persistence.progress_storage = NoProgress()
    made.watching.server_timeout = 300
    made.watching.connect_timeout = 5
    made.networking.request_timeout = 30
    made.queueing.idle_timeout = 1
    made.queueing.exit_timeout = 1
    return made


def _noting(api_version: str, kind: str, store: Store, queue: WorkQueue[Key]) -> Any:
    async def note(event: Any, **_: Any) -> None:
        item = {"apiVersion": api_version, "kind": kind, **event["object"]}
        key = store.remove(item) if event["type"] == "DELETED" else store.put(item)
        if key:
            queue.changed(key)

    return note


def _noting_nodes(store: Store, queue: WorkQueue[Key]) -> Any:
    """A node that comes, goes or changes its devices concerns every resource."""

    async def note(event: Any, **_: Any) -> None:
        before = store.devices_of(event["object"]["metadata"]["name"])
        item = {"apiVersion": "v1", "kind": "Node", **event["object"]}
        (store.remove if event["type"] == "DELETED" else store.put)(item)
        if store.devices_of(item["metadata"]["name"]) != before:
            for key in store.resources():
                queue.later(key, _NODES_SETTLE)

    return note


_NODES_SETTLE = 2.0  # seconds: nodes come in groups


def _selector(api_version: str, kind: str) -> tuple[str, str, str]:
    """kopf's group, version, plural."""
    group, _, version = api_version.rpartition("/")
    return group, version, kube.plural(kind)
