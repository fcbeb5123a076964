"""A gRPC client's request messages, kept so that another replica can have them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator


class Replay:
    """Reads a call's messages once and gives them to every attempt from the first on.

    Once a replica has answered (`commit`), or `limit` bytes are kept, messages only pass through, one at a
    time, so that a stream of any length needs little memory.
    """

    def __init__(self, source: AsyncIterator[bytes], limit: int) -> None:
        self._source = source
        self._limit = limit
        self._kept: deque[bytes] = deque()
        self._forgotten = 0  # messages that came before the kept ones
        self._sent = 0  # messages that the latest attempt has taken
        self._ended = False
        self._committed = False
        self._changed = asyncio.Condition()
        self.bytes_in = 0

    @property
    def complete(self) -> bool:
        """Whether another attempt could still have every message."""
        return not self._forgotten

    async def read(self) -> None:
        """Reads the client's messages to their end."""
        async for message in self._source:
            async with self._changed:
                self._kept.append(message)
                self.bytes_in += len(message)
                self._committed |= self.bytes_in > self._limit
                self._changed.notify_all()
                await self._changed.wait_for(self._wants_more)
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def first(self) -> bytes:
        """The first message; empty if the client sends none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._kept or self._ended)
            return self._kept[0] if self._kept else b""

    async def messages(self) -> AsyncIterator[bytes]:
        """All messages, for one attempt. Only the latest attempt may go on."""
        self._sent = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._available or self._ended)
                if not self._available:
                    return
                message = self._kept[self._sent - self._forgotten]
            yield message
            async with self._changed:
                self._sent += 1
                self._forget()

    async def commit(self) -> None:
        """No other attempt will be made."""
        async with self._changed:
            self._committed = True
            self._forget()

    @property
    def _available(self) -> bool:
        return self._sent - self._forgotten < len(self._kept)

    def _wants_more(self) -> bool:
        return not (self._committed and self._available)

    def _forget(self) -> None:
        while self._committed and self._forgotten < self._sent:
            self._kept.popleft()
            self._forgotten += 1
        self._changed.notify_all()
