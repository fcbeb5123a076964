"""What was reported about a deployment's objects of late. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mii.cluster.times import age

Object = Mapping[str, Any]

MOST = 8


@dataclass(frozen=True)
class EventLine:
    age: str
    kind: str  # Normal or Warning
    about: str
    reason: str
    message: str
    count: int


def newest(events: Sequence[Object], now: datetime) -> list[EventLine]:
    """The last of them, in the order of their times."""
    found = sorted(events, key=lambda event: datetime.fromisoformat(_time(event)))[-MOST:]
    return [
        EventLine(
            age=age(_time(event), now),
            kind=event.get("type", "Normal"),
            about=f"{event['involvedObject']['kind']}/{event['involvedObject']['name']}",
            reason=event.get("reason", ""),
            message=event.get("message", "").strip(),
            count=event.get("count") or 1,
        )
        for event in found
    ]


def _time(event: Object) -> str:
    """Newer sources of events set other fields."""
    series = (event.get("series") or {}).get("lastObservedTime")
    times = (series, event.get("lastTimestamp"), event.get("eventTime"))
    return str(next(filter(None, times), event["metadata"].get("creationTimestamp", "")))
