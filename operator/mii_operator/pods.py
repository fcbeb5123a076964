"""What keeps pods from being ready, in the words of the scheduler, the kubelet and the container. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mii_spec.reasons import Reason

Pod = Mapping[str, Any]

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_KILLED_WITHIN = timedelta(minutes=5)  # of the startup probe's last failure, drain included


@dataclass(frozen=True)
class Problem:
    reason: Reason
    message: str


def problem(pods: Sequence[Pod], *, now: datetime, startup: timedelta) -> Problem | None:
    """What the first pod that is in trouble has to say; None if all run, or may yet."""
    found = (trouble for pod in pods for trouble in _troubles(pod, now, startup))
    return next(found, None)


def unscheduled(pods: Sequence[Pod]) -> str | None:
    """The scheduler's words about the first pod that it has no node for."""
    for pod in pods:
        condition = _condition(pod, "PodScheduled")
        if condition and condition["status"] == "False":
            return str(condition.get("message") or condition.get("reason", ""))
    return None


def ready(pod: Pod) -> bool:
    condition = _condition(pod, "Ready")
    return condition is not None and condition["status"] == "True"


def _troubles(pod: Pod, now: datetime, startup: timedelta) -> Iterator[Problem]:
    name = pod["metadata"]["name"]
    status = pod.get("status", {})
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        if not container.get("ready"):
            yield from _of_container(name, container, now, startup)


def _of_container(
    pod: str, status: Mapping[str, Any], now: datetime, startup: timedelta
) -> Iterator[Problem]:
    state = status.get("state", {})
    waiting = state.get("waiting", {})
    reason, words = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE:
        yield Problem("ImagePullFailed", f"{pod}: {status.get('image', '')}: {words or reason}")
    elif reason in _CONFIG:
        yield Problem("ContainerNotCreated", f"{pod}: {words or reason}")
    ended = state.get("terminated") or status.get("lastState", {}).get("terminated")
    restarts = status.get("restartCount", 0)
    if _too_slow(state, ended, status, now, startup):
        yield Problem("StartupTimeout", f"{pod}: not ready {_minutes(startup)} after it had started")
    elif ended and (restarts or reason == "CrashLoopBackOff"):
        yield Problem("CrashLooping", f"{pod}: {_last_words(ended)}, {restarts} restarts")


def _too_slow(
    state: Mapping[str, Any],
    ended: Mapping[str, Any] | None,
    status: Mapping[str, Any],
    now: datetime,
    startup: timedelta,
) -> bool:
    """Whether it has been loading for longer than it may, now or before it was killed for that."""
    running = state.get("running")
    if running and not status.get("started") and _since(running, "startedAt", now) > startup:
        return True
    if not ended or ended.get("exitCode") not in (0, 137, 143) or ended.get("reason") == "OOMKilled":
        return False
    ran = _since(ended, "startedAt", _time(ended, "finishedAt", now))
    return startup <= ran <= startup + _KILLED_WITHIN


def _last_words(ended: Mapping[str, Any]) -> str:
    """`OOMKilled (exit code 137): …` with the termination message, which is the end of the log."""
    said = str(ended.get("message", "")).strip()
    why = f"{ended.get('reason', 'Error')} (exit code {ended.get('exitCode', '?')})"
    return f"{why}: {said[-1000:]}" if said else why


def _since(state: Mapping[str, Any], field: str, until: datetime) -> timedelta:
    return until - _time(state, field, until)


def _time(state: Mapping[str, Any], field: str, default: datetime) -> datetime:
    text = state.get(field)
    return datetime.fromisoformat(text) if text else default


def _minutes(value: timedelta) -> str:
    return f"{value.total_seconds() / 60:g} min"


def _condition(pod: Pod, kind: str) -> Mapping[str, Any] | None:
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), None)
