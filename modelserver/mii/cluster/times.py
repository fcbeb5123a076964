"""Times of Kubernetes objects as people read them. Pure."""

from datetime import datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def age(since: str | None, now: datetime) -> str:
    """From an RFC 3339 time to now, as kubectl shortens it: 90s, 5m, 3h, 4d; empty if there is no time."""
    if not since:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 2 * size), (1, "s"))
    return f"{seconds // size}{unit}"
