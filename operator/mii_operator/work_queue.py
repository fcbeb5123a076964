"""Which resources wait for a reconcile: each at most once, never two at a time, never too often."""

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")

SPACING = 0.2  # seconds between two reconciles of the same key
FIRST_RETRY, LAST_RETRY = 0.5, 60.0  # seconds


@dataclass
class _Entry:
    changed_at: float | None = None  # loop time of the oldest change that is not reconciled
    timer: asyncio.TimerHandle | None = None
    queued: bool = False
    active: bool = False
    gone: bool = False
    not_before: float = 0.0
    failures: int = 0


class WorkQueue(Generic[K]):
    """Used by one event loop."""

    def __init__(self) -> None:
        self._entries: dict[K, _Entry] = {}
        self._ready: asyncio.Queue[K] = asyncio.Queue()

    def changed(self, key: K) -> None:
        """Something about `key` is new: reconcile it as soon as may be."""
        entry = self._entries.setdefault(key, _Entry())
        entry.changed_at = entry.changed_at or _now()
        self._schedule(key, entry, _now())

    def later(self, key: K, delay: float) -> None:
        """Reconcile `key` in `delay` seconds, unless that happens earlier anyway."""
        self._schedule(key, self._entries.setdefault(key, _Entry()), _now() + delay)

    async def take(self) -> tuple[K, float | None]:
        """A due key, and the loop time of its change if it had one. Call `done` or `failed` after."""
        key = await self._ready.get()
        entry = self._entries[key]
        changed_at, entry.changed_at = entry.changed_at, None
        entry.queued, entry.active, entry.gone = False, True, False
        return key, changed_at

    def done(self, key: K) -> None:
        self._entries[key].failures = 0
        self._finish(key)

    def failed(self, key: K) -> float:
        """Tries again after a delay that doubles each time; the delay."""
        entry = self._entries[key]
        delay = min(FIRST_RETRY * 2.0**entry.failures, LAST_RETRY)
        entry.failures += 1
        self._finish(key)
        self.later(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """`key` is gone, and so are the plans to look at it again. Call it between `take` and `done`."""
        entry = self._entries[key]
        entry.gone = True
        if entry.timer:
            entry.timer.cancel()
            entry.timer = None

    def _finish(self, key: K) -> None:
        entry = self._entries[key]
        entry.active, entry.not_before = False, _now() + SPACING
        if entry.changed_at is not None:
            self._schedule(key, entry, entry.not_before)
        elif entry.gone:
            del self._entries[key]

    def _schedule(self, key: K, entry: _Entry, due: float) -> None:
        due = max(due, entry.not_before)
        if entry.queued or (entry.timer and entry.timer.when() <= due):
            return
        if entry.timer:
            entry.timer.cancel()
        entry.timer = asyncio.get_running_loop().call_at(due, self._fire, key)

    def _fire(self, key: K) -> None:
        entry = self._entries[key]
        entry.timer = None
        if entry.active:  # it comes again when the present reconcile has ended
            entry.changed_at = entry.changed_at or _now()
        else:
            entry.queued = True
            self._ready.put_nowait(key)


def _now() -> float:
    return asyncio.get_running_loop().time()
