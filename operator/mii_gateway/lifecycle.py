"""Serving, draining, ended: who is still inside, and who said stop."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Lifecycle:
    """Counts open requests and remembers that the gateway is to end."""

    def __init__(self) -> None:
        self.open = 0
        self._terminated = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """An open request holds a drain up."""
        self.open += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.open -= 1
            if not self.open:
                self._idle.set()

    @property
    def draining(self) -> bool:
        return self._terminated.is_set()

    def terminate(self) -> None:
        """From now on the gateway is not ready, and ends when nothing is open."""
        if not self.draining:
            self._terminated.set()
            for listener in self._listeners:
                listener()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls `listener` once, when the gateway is told to end."""
        self._listeners.append(listener)

    async def terminated(self) -> None:
        await self._terminated.wait()

    async def idle(self) -> None:
        """Returns when no request is open."""
        await self._idle.wait()
