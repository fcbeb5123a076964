"""One HTTP attempt on one replica, up to its first byte: what can still be retried."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from multidict import CIMultiDict

from mii_gateway import wire
from mii_gateway.connection import Broken, Connection
from mii_gateway.dispatch import ReplicaFailed
from mii_gateway.errors import replica_silent
from mii_gateway.pool import Pool
from mii_gateway.record import Record
from mii_gateway.replicas import Replica


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A request as every attempt sends it."""

    method: str
    target: str  # path and query as the client encoded them
    headers: CIMultiDict[str]
    body: bytes
    stripped: bool  # whether the client, being old, knows no chunks

    def to(self, replica: Replica) -> bytes:
        return wire.request(self.method, self.target, replica.name, self.headers, self.body)


class HttpUpstream:
    def __init__(self, pool: Pool, idle_timeout: float) -> None:
        self._pool = pool
        self._idle_timeout = idle_timeout

    @asynccontextmanager
    async def open(
        self, replica: Replica, outgoing: Outgoing, record: Record
    ) -> AsyncIterator[tuple[Connection, bytes]]:
        """The connection with its answer's head, and the first piece of its body (empty if it has none).

        A stream whose headers are out but whose first byte is not can still move to another replica, so
        nothing is told to the client before. Raises ReplicaFailed, or Refusal after the idle timeout. Leaving
        before the end closes the connection, which is what tells the replica to stop.
        """
        connection: Connection | None = None
        try:
            with record.upstream():
                connection = await self._connect(replica)
                with self._failures(replica):
                    async with asyncio.timeout(self._idle_timeout):
                        first = await connection.send(
                            outgoing.method, outgoing.to(replica), stripped=outgoing.stripped
                        )
                assert connection.head is not None, "a piece has come, so the head has"
                if connection.head.status == 503:
                    raise ReplicaFailed("refused")
            yield connection, first
        finally:
            if connection is not None:
                self._pool.give(replica.address, connection)

    async def _connect(self, replica: Replica) -> Connection:
        try:
            return await self._pool.take(replica.address)
        except (OSError, TimeoutError) as error:
            raise ReplicaFailed("connect") from error

    @contextmanager
    def _failures(self, replica: Replica) -> Iterator[None]:
        try:
            yield
        except Broken as error:
            raise ReplicaFailed("broken") from error
        except TimeoutError as error:
            raise replica_silent(replica.name, self._idle_timeout) from error
