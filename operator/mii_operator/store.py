"""What the watches have told of the cluster: the resources, their children, the nodes and who holds devices.

Reconciling reads from here, so that it costs the API server nothing. An object that is older than the one
known is dropped: answers to writes arrive before the watch tells of them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mii_operator import constants
from mii_operator.kube import AUTOSCALER, MANAGER, Object

INSTANCE = "app.kubernetes.io/instance"
MANAGED_BY = "app.kubernetes.io/managed-by"


class Key(NamedTuple):
    """A MIIDeployment's."""

    namespace: str
    name: str


class ChildKey(NamedTuple):
    kind: str
    name: str


class Holding(NamedTuple):
    """The devices of one scheduled pod."""

    node: str
    devices: Mapping[str, int]


class Store:
    def __init__(self) -> None:
        self._resources: dict[Key, Object] = {}
        self._children: dict[Key, dict[ChildKey, Object]] = {}
        self._nodes: dict[str, Object] = {}
        self._holdings: dict[tuple[str, str], Holding] = {}

    def put(self, item: Object) -> Key | None:
        """Takes note of an object; the resource that it concerns, if it was news."""
        if item["kind"] == "Node":
            self._nodes[item["metadata"]["name"]] = trim_node(item)
            return None
        if item["kind"] == "Pod":
            self._hold(item)
        slot = self._slot(item)
        if slot is None:
            return None
        owner, place, at = slot
        if at in place and version(place[at]) >= version(item):
            return None
        place[at] = trim(item)
        return owner

    def remove(self, item: Object) -> Key | None:
        metadata = item["metadata"]
        if item["kind"] == "Node":
            self._nodes.pop(metadata["name"], None)
        if item["kind"] == "Pod":
            self._holdings.pop((metadata["namespace"], metadata["name"]), None)
        slot = self._slot(item)
        if slot is None:
            return None
        owner, place, at = slot
        known = place.get(at)
        if known and known["metadata"]["uid"] == metadata["uid"]:
            del place[at]
        return owner

    def known(self, kind: str) -> set[str]:
        """The uids of all objects of a kind."""
        return {item["metadata"]["uid"] for item in self._all(kind)}

    def replace(self, kind: str, items: Iterable[Object], before: Collection[str]) -> set[Key]:
        """All objects of a kind, as listed: the resources of those that are gone or new.

        `before` is what was known when the list was asked for. What came or went since, the watches have
        told, and the list may be older than that.
        """
        listed, now = {item["metadata"]["uid"]: item for item in items}, self.known(kind)
        gone = [i for i in self._all(kind) if (uid := i["metadata"]["uid"]) in before and uid not in listed]
        there = [item for uid, item in listed.items() if uid in now or uid not in before]
        touched = [self.remove(item) for item in gone] + [self.put(item) for item in there]
        return {key for key in touched if key}

    def resource(self, key: Key) -> Object | None:
        return self._resources.get(key)

    def resources(self) -> list[Key]:
        return list(self._resources)

    def children(self, key: Key) -> dict[ChildKey, Object]:
        return dict(self._children.get(key, {}))

    def nodes(self) -> tuple[Object, ...]:
        return tuple(self._nodes.values())

    def devices_of(self, node: str) -> Mapping[str, Any]:
        """What the node offers and how it is labelled; empty if there is no such node."""
        found = self._nodes.get(node, {})
        labels = found.get("metadata", {}).get("labels") or {}
        ours = {k: v for k, v in labels.items() if k in (constants.PRODUCT_LABEL, constants.MEMORY_LABEL)}
        return {**found.get("status", {}).get("allocatable", {}), **ours}

    def holdings(self) -> tuple[Holding, ...]:
        return tuple(self._holdings.values())

    def _all(self, kind: str) -> Iterator[Object]:
        if kind == constants.KIND:
            yield from list(self._resources.values())
        elif kind == "Node":
            yield from list(self._nodes.values())
        for children in list(self._children.values()):
            yield from [item for key, item in children.items() if key.kind == kind]

    def _slot(self, item: Object) -> tuple[Key, dict[Any, Object], Any] | None:
        """Whose it is, and where it is kept."""
        metadata = item["metadata"]
        if item["kind"] == constants.KIND:
            key = Key(metadata["namespace"], metadata["name"])
            return key, self._resources, key
        labels = metadata.get("labels") or {}
        if labels.get(MANAGED_BY) != constants.MANAGED_BY or INSTANCE not in labels:
            return None
        owner = Key(metadata.get("namespace", ""), labels[INSTANCE])
        return owner, self._children.setdefault(owner, {}), ChildKey(item["kind"], metadata["name"])

    def _hold(self, pod: Object) -> None:
        at = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        node = pod["spec"].get("nodeName")
        done = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        held = devices(pod)
        if node and held and not done:
            self._holdings[at] = Holding(node, held)
        else:
            self._holdings.pop(at, None)


def version(item: Mapping[str, Any]) -> int:
    """Of one object's two versions the one with the higher number is newer (KEP-5504)."""
    return int(item["metadata"].get("resourceVersion", 0))


def devices(pod: Mapping[str, Any]) -> dict[str, int]:
    """Extended resources (`nvidia.com/gpu`) that the pod's containers are given."""
    total: dict[str, int] = {}
    for container in pod["spec"].get("containers", ()):
        for resource, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in resource and str(amount).isdigit():
                total[resource] = total.get(resource, 0) + int(amount)
    return total


def trim(item: Object) -> Object:
    """Without what nobody asks for; of a pod only what conditions are made of."""
    metadata = {k: v for k, v in item["metadata"].items() if k != "annotations"}
    ours = [m for m in metadata.get("managedFields", ()) if m["manager"] in (MANAGER, AUTOSCALER)]
    metadata["managedFields"] = ours
    if item["kind"] != "Pod":
        return {**item, "metadata": metadata}
    del metadata["managedFields"]
    spec = {"nodeName": item["spec"].get("nodeName")}
    return {**item, "metadata": metadata, "spec": spec}


def trim_node(node: Object) -> Object:
    metadata, status = node["metadata"], node.get("status", {})
    kept = {k: metadata.get(k) for k in ("name", "uid", "labels", "resourceVersion")}
    spec = {"unschedulable": node.get("spec", {}).get("unschedulable", False)}
    allocatable = {k: v for k, v in (status.get("allocatable") or {}).items() if "/" in k}
    return {"kind": "Node", "metadata": kept, "spec": spec, "status": {"allocatable": allocatable}}
