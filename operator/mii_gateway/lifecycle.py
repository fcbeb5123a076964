"""Serving, draining, ended: who is still inside, and who said stop."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Lifecycle:
    """Counts open requests and remembers that the gateway is to end."""

    def __init__(self) -> None:
        self.open = 0
        self._terminated = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._quiet_since = time.monotonic()

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """An open request holds a drain up."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1
            self._quiet_since = time.monotonic()

    @property
    def draining(self) -> bool:
        return self._terminated.is_set()

    @property
    def quiet(self) -> float:
        """Seconds since a request was open or the gateway was told to end; 0 while one is open."""
        return 0.0 if self.open else time.monotonic() - self._quiet_since

    def terminate(self) -> None:
        """From now on the gateway is not ready, and ends when nobody is inside."""
        if not self.draining:
            self._terminated.set()
            self._quiet_since = time.monotonic()
            for listener in self._listeners:
                listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls `listener` once, when the gateway is told to end."""
        self._listeners.append(listener)

    async def terminated(self) -> None:
        await self._terminated.wait()
