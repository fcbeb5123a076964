"""What the cluster's nodes say about GPUs, for sizing. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from mii_operator.constants import MEMORY_LABEL, PRODUCT_LABEL
from mii_spec.sizing import GpuFacts
from mii_spec.spec import Accelerator

MIB = 2**20


def gpu_facts(nodes: Iterable[Mapping[str, Any]], accelerator: Accelerator) -> GpuFacts | None:
    """From Node objects: their allocatable devices and the labels of GPU feature discovery.

    A replica may land on any node that has the resource (and the product, if the manifest names one), so
    that the smallest memory counts. None when no node has any.
    """
    fitting = [node for node in nodes if _count(node, accelerator) > 0]
    if not fitting:
        return None
    memories = {memory for node in fitting if (memory := _memory(node))}
    return GpuFacts(
        memory_bytes=min(memories, default=None),
        per_node=max(_count(node, accelerator) for node in fitting),
        mixed=len(memories) > 1,
    )


def free_gpus(
    nodes: Iterable[Mapping[str, Any]],
    held: Iterable[tuple[str, Mapping[str, int]]],
    accelerator: Accelerator,
) -> int:
    """On the node with most of them free. `held` are the devices of each pod, with its node."""
    free = {n["metadata"]["name"]: _count(n, accelerator) for n in nodes if not _cordoned(n)}
    for node, devices in held:
        if node in free:
            free[node] -= devices.get(accelerator.resource, 0)
    return max(free.values(), default=0)


def _cordoned(node: Mapping[str, Any]) -> bool:
    return bool(node.get("spec", {}).get("unschedulable"))


def _count(node: Mapping[str, Any], accelerator: Accelerator) -> int:
    """Devices that a pod with this accelerator can get on this node."""
    if accelerator.product not in ("", _labels(node).get(PRODUCT_LABEL)):
        return 0
    return int(node.get("status", {}).get("allocatable", {}).get(accelerator.resource, "0"))


def _memory(node: Mapping[str, Any]) -> int | None:
    """Bytes of one GPU, if the node is labelled with them."""
    label = _labels(node).get(MEMORY_LABEL, "")
    return int(label) * MIB if label.isdigit() else None


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = node.get("metadata", {}).get("labels") or {}
    return labels
