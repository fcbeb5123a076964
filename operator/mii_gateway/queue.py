"""Bounded waiting for a replica: what holds requests while none is ready."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from mii_gateway.errors import no_replica, queue_full
from mii_gateway.replicas import Lease, ReplicaTable, Work

MAX_BYTES = 256 * 1024 * 1024  # of request bodies that wait


@dataclass(eq=False)
class _Waiter:
    work: Work
    tried: Collection[tuple[str, int]]
    lease: asyncio.Future[Lease] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ReplicaQueue:
    """Gives leases at once while a replica is ready, else first come, first served."""

    def __init__(
        self, table: ReplicaTable, *, max_requests: int, timeout: float, max_bytes: int = MAX_BYTES
    ) -> None:
        self._table = table
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._waiters: dict[_Waiter, None] = {}  # in order of arrival
        self._bytes = 0
        table.subscribe(self._serve)

    def __len__(self) -> int:
        return len(self._waiters)

    async def lease(self, work: Work, tried: Collection[tuple[str, int]]) -> Lease:
        """A lease on a replica that is not in `tried`.

        Raises Refusal: 429 when too much waits already, 503 when no replica came in time.
        """
        if lease := self._table.lease(work, tried):
            return lease
        self._check_room(work)
        return await self._wait(_Waiter(work, tried))

    def _check_room(self, work: Work) -> None:
        if len(self._waiters) >= self._max_requests:
            raise queue_full(f"{self._max_requests} requests")
        if self._bytes + work.size > self._max_bytes:
            raise queue_full(f"{self._bytes} bytes of requests")

    async def _wait(self, waiter: _Waiter) -> Lease:
        self._waiters[waiter] = None
        self._bytes += waiter.work.size
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(waiter.lease)
        except TimeoutError:
            if waiter.lease.done():  # in the last moment
                return waiter.lease.result()
            raise no_replica(self._timeout) from None
        except asyncio.CancelledError:
            if waiter.lease.done():
                waiter.lease.result().release()
            raise
        finally:
            self._remove(waiter)

    def _serve(self) -> None:
        """Serves whom it can, in order. A lease counts as load from here on, so that the next one sees it."""
        for waiter in list(self._waiters):
            if lease := self._table.lease(waiter.work, waiter.tried):
                waiter.lease.set_result(lease)
                self._remove(waiter)

    def _remove(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            del self._waiters[waiter]
            self._bytes -= waiter.work.size
