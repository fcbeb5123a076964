"""How many replicas the load asks for. Pure: what gateways said over time in, a number out.

    needed = ceil(sum of the replicas' utilization / target)         as the HorizontalPodAutoscaler's formula
             + 1 where requests wait for a replica

Up as soon as it is needed; down to the most that was needed within a window, so that a pause costs no cold
start; to none only after `idleAfter` without a request; from none when a request waits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

from mii_spec.spec import Autoscaling

DOWN_WINDOW = 300.0  # seconds; the HorizontalPodAutoscaler's default
TOLERANCE = 0.1  # relative difference from the target that is let be


@dataclass(frozen=True)
class Load:
    """All gateways of a deployment together, at one moment."""

    waiting: int  # requests that no replica has taken
    utilization: float  # sum over replicas, each 0 (idle) to 1 (full)
    replicas: int  # that gateways know
    idle_seconds: float  # since the last request ended, or came


@dataclass(frozen=True)
class Sample:
    at: float  # seconds, of a clock that does not jump
    needed: int


def combine(answers: Sequence[Mapping[str, Any]]) -> Load | None:
    """From each gateway's /load: {"waiting", "replicas": [{"name", "utilization"}, …], "idle_seconds"}.

    A gateway knows its own requests alone, so that they add up. None if none has answered, or one nonsense.
    """
    if not answers:
        return None
    try:
        load = Load(
            waiting=sum(int(a["waiting"]) for a in answers),
            utilization=sum(float(r["utilization"]) for a in answers for r in a["replicas"]),
            replicas=max(len(a["replicas"]) for a in answers),
            idle_seconds=min(float(a["idle_seconds"]) for a in answers),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return load if isfinite(load.utilization) else None


def needed(load: Load, current: int, scaling: Autoscaling) -> int:
    """Replicas that this load asks for, before bounds and windows."""
    if current == 0:
        return min(load.waiting, 1)
    wanted = load.utilization / scaling.target_utilization
    within = abs(wanted / current - 1) <= TOLERANCE
    steady = current if within else ceil(wanted)
    starting = load.replicas < current  # they will take what waits
    return max(steady, current + 1) if load.waiting and not starting else steady


def desired(samples: Sequence[Sample], load: Load, current: int, scaling: Autoscaling, now: float) -> int:
    """`samples` include the present one; older ones than the window do not count."""
    if _idle(load, scaling):
        return 0
    recent = [s.needed for s in samples if now - s.at <= DOWN_WINDOW]
    floor = max(scaling.min, min(current, 1))  # only idleness takes the last one
    most_recent = recent[-1] if recent else current
    kept = min(current, max(recent, default=current))
    return max(floor, min(max(most_recent, kept), scaling.max))


def _idle(load: Load, scaling: Autoscaling) -> bool:
    if scaling.min or scaling.idle_after is None or load.waiting or load.utilization:
        return False
    return load.idle_seconds >= scaling.idle_after.total_seconds()


def clamp(replicas: int, scaling: Autoscaling) -> int:
    """Into the bounds, where no load is known."""
    return max(scaling.min, min(replicas, scaling.max))
