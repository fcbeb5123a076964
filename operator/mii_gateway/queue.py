"""Bounded, fair waiting for a replica: what holds requests while none can take them."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from mii_gateway.errors import no_replica, queue_full
from mii_gateway.fairness import TokenCounters
from mii_gateway.replicas import ReplicaTable
from mii_gateway.work import Lease, Work

MAX_BYTES = 256 * 1024 * 1024  # of request bodies that wait


@dataclass(eq=False)
class _Waiter:
    work: Work
    tried: Collection[tuple[str, int]]
    lease: asyncio.Future[Lease] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ReplicaQueue:
    """Gives leases at once while a replica has room; else in turn among tenants, and in order for each."""

    def __init__(
        self, table: ReplicaTable, *, max_requests: int, timeout: float, max_bytes: int = MAX_BYTES
    ) -> None:
        self._table = table
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._waiters: dict[str, dict[_Waiter, None]] = {}  # of each tenant that waits, in order of arrival
        self._counters = TokenCounters()
        self._length = 0
        self._bytes = 0
        table.subscribe_freed(self._serve)

    def __len__(self) -> int:
        return self._length

    async def lease(self, work: Work, tried: Collection[tuple[str, int]]) -> Lease:
        """A lease on a replica that is not in `tried`. Who has tried one does not queue again for another.

        Raises Refusal: 429 when too much waits already, 503 when no replica came in time.
        """
        if (not self._length or tried) and (lease := self._lease(work, tried)):
            return lease
        self._check_room(work)
        return await self._wait(_Waiter(work, tried))

    def charge(self, tenant: str, output_tokens: int) -> None:
        """What an answer has cost, which is not known before its end."""
        self._counters.charge(tenant, output_tokens=output_tokens)

    def _lease(self, work: Work, tried: Collection[tuple[str, int]]) -> Lease | None:
        lease = self._table.lease(work, tried)
        if lease:
            self._counters.charge(work.tenant, prompt_tokens=work.prompt_tokens)
        return lease

    def _check_room(self, work: Work) -> None:
        if self._length >= self._max_requests:
            raise queue_full(f"{self._max_requests} requests")
        if self._bytes + work.size > self._max_bytes:
            raise queue_full(f"{self._bytes} bytes of requests")

    async def _wait(self, waiter: _Waiter) -> Lease:
        self._add(waiter)
        self._serve()
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
        while self._length and self._table.available:
            if not any(map(self._serve_one_of, self._counters.order(self._waiters))):
                return

    def _serve_one_of(self, tenant: str) -> bool:
        """The first that an available replica is left for."""
        for waiter in self._waiters[tenant]:
            if lease := self._lease(waiter.work, waiter.tried):
                waiter.lease.set_result(lease)
                self._remove(waiter)
                return True
        return False

    def _add(self, waiter: _Waiter) -> None:
        tenant = waiter.work.tenant
        if tenant not in self._waiters:
            self._counters.arrive(tenant, self._waiters)
        self._waiters.setdefault(tenant, {})[waiter] = None
        self._length += 1
        self._bytes += waiter.work.size

    def _remove(self, waiter: _Waiter) -> None:
        tenant = waiter.work.tenant
        if waiter in self._waiters.get(tenant, ()):
            del self._waiters[tenant][waiter]
            self._length -= 1
            self._bytes -= waiter.work.size
            if not self._waiters[tenant]:
                del self._waiters[tenant]
