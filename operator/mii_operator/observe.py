"""What there is of one deployment, as one frozen value, from the store of what the watches have told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mii_operator import constants
from mii_operator.gpus import free_gpus, gpu_facts
from mii_operator.kube import Object
from mii_operator.manifests import storage
from mii_operator.manifests.meta import component_name
from mii_operator.store import ChildKey, Holding, Key, Store
from mii_spec.sizing import GpuFacts
from mii_spec.spec import Accelerator, MIIDeployment

COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Observed:
    """`nodes` are None where the operator may not see them: it runs in its own namespaces alone."""

    children: Mapping[ChildKey, Object]
    nodes: tuple[Object, ...] | None
    holdings: tuple[Holding, ...]

    def deployment(self, deployment: MIIDeployment, component: str) -> Object | None:
        found = self.children.get(ChildKey("Deployment", component_name(deployment, component)))
        return found if found and owned(found, deployment.metadata.uid) else None

    def pods(self, component: str) -> list[Object]:
        """That are not on their way out, oldest first."""
        found = [item for key, item in self.children.items() if key.kind == "Pod"]
        wanted = [p for p in found if p["metadata"]["labels"].get(COMPONENT) == component]
        alive = [pod for pod in wanted if not pod["metadata"].get("deletionTimestamp")]
        return sorted(alive, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def gpu(self, accelerator: Accelerator) -> GpuFacts | None:
        """None where no node has any."""
        if self.nodes is None:
            return GpuFacts(memory_bytes=None, per_node=1)
        return gpu_facts(self.nodes, accelerator)

    def free_gpus(self, accelerator: Accelerator) -> int | None:
        return None if self.nodes is None else free_gpus(self.nodes, self.holdings, accelerator)

    def cache_access_modes(self, deployment: MIIDeployment) -> tuple[str, ...]:
        claim = self.children.get(ChildKey("PersistentVolumeClaim", storage.claim_name(deployment)))
        return tuple(claim["spec"].get("accessModes", ())) if claim else ()


def observe(store: Store, key: Key, *, nodes_visible: bool) -> Observed:
    nodes = store.nodes() if nodes_visible else None
    return Observed(store.children(key), nodes, store.holdings() if nodes_visible else ())


def owned(item: Mapping[str, Any], uid: str) -> bool:
    """Whether the resource with this uid is the controller of `item`."""
    owners = item["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == uid and owner.get("controller") for owner in owners)


def predecessor_owned(item: Mapping[str, Any], name: str) -> bool:
    """Whether it was a resource of this kind and name, which is gone: the garbage collector comes for it."""
    owners = item["metadata"].get("ownerReferences") or ()
    return any(owner["kind"] == constants.KIND and owner["name"] == name for owner in owners)


def running_gpus(server: Object | None, resource: str) -> int | None:
    """GPUs of one replica of the server's Deployment; None if there is no Deployment."""
    if server is None:
        return None
    containers = server["spec"]["template"]["spec"]["containers"]
    container = next(c for c in containers if c["name"] == constants.SERVER)
    return int((container.get("resources", {}).get("limits") or {}).get(resource, 0))
