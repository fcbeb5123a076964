"""Connections to replicas that wait for the next request."""

import asyncio
import time

from mii_gateway.connection import Connection
from mii_gateway.discovery import Address

KEEPALIVE = 30.0  # seconds; shorter than a model server's, so that it is not the one to close


class Pool:
    """Gives the connection that rested least, and lets the others grow old."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._resting: dict[Address, dict[Connection, float]] = {}  # since when

    async def take(self, address: Address) -> Connection:
        """Raises OSError or TimeoutError if there is none and none can be made."""
        resting = self._resting.get(address, {})
        while resting:
            connection, since = resting.popitem()
            if time.monotonic() - since < KEEPALIVE:
                return connection
            connection.close()
        async with asyncio.timeout(self._connect_timeout):
            return await self._connect(address)

    def give(self, address: Address, connection: Connection) -> None:
        """Keeps it if it can be used again."""
        if not connection.reusable:
            return connection.close()
        connection.rest()
        self._resting.setdefault(address, {})[connection] = time.monotonic()
        return None

    def close(self) -> None:
        for resting in self._resting.values():
            for connection in list(resting):
                connection.close()
        self._resting.clear()

    async def _connect(self, address: Address) -> Connection:
        def forget(connection: Connection) -> None:
            resting = self._resting.get(address, {})
            resting.pop(connection, None)
            if not resting:
                self._resting.pop(address, None)

        create = asyncio.get_running_loop().create_connection
        _, connection = await create(lambda: Connection(forget), address.host, address.http_port)
        return connection
