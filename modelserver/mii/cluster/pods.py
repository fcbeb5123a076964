"""The state of a pod, and what scheduler, kubelet or its program last said about it. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mii.cluster.times import age

Object = Mapping[str, Any]

COMPONENT = "app.kubernetes.io/component"
_LONGEST = 600  # characters of a program's last words


@dataclass(frozen=True)
class PodLine:
    """`said` starts with who said it, and is empty where nothing is wrong."""

    name: str
    component: str
    state: str  # as kubectl's column STATUS
    ready: bool
    restarts: int
    node: str
    age: str
    said: str


def line(pod: Object, now: datetime) -> PodLine:
    metadata, status = pod["metadata"], pod.get("status", {})
    containers = _containers(status)
    return PodLine(
        name=metadata["name"],
        component=(metadata.get("labels") or {}).get(COMPONENT, ""),
        state=_state(pod, containers),
        ready=_condition(status, "Ready").get("status") == "True",
        restarts=sum(container.get("restartCount", 0) for container in containers),
        node=pod["spec"].get("nodeName", ""),
        age=age(metadata.get("creationTimestamp"), now),
        said=_said(status, containers),
    )


def _containers(status: Object) -> list[Object]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _state(pod: Object, containers: list[Object]) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    waiting = (
        c["state"]["waiting"].get("reason", "") for c in containers if c.get("state", {}).get("waiting")
    )
    ended = (
        c["state"]["terminated"].get("reason", "") for c in containers if c.get("state", {}).get("terminated")
    )
    status = pod.get("status", {})
    return (
        next(filter(None, (*waiting, *ended)), "") or status.get("reason") or status.get("phase", "Unknown")
    )


def _said(status: Object, containers: list[Object]) -> str:
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"scheduler: {scheduled.get('message') or scheduled.get('reason', '')}"
    words = (said for container in containers if not container.get("ready") for said in _of(container))
    return next(words, f"kubelet: {status['message']}" if status.get("message") else "")


def _of(container: Object) -> Iterator[str]:
    """The program's last words first: that it is restarted later says less."""
    state = container.get("state", {})
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
    if ended and (ended.get("exitCode") or ended.get("message")):
        why = f"{ended.get('reason', 'Error')} (exit code {ended.get('exitCode', '?')})"
        said = str(ended.get("message") or "").strip()[-_LONGEST:]
        yield f"{container['name']}: {why}" + (f": {said}" if said else "")
    waiting = state.get("waiting") or {}
    if waiting.get("message"):
        yield f"kubelet: {waiting['message']}"


def _condition(status: Object, kind: str) -> Object:
    return next((c for c in status.get("conditions") or () if c["type"] == kind), {})
