"""A request's way to a replica, and to the next one if the first fails before its first byte.

    queue ─lease─> attempt ──> answer
      ^               │ ReplicaFailed
      └─── retry? <───┘

The same for HTTP and gRPC, which only supply the attempt.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from mii_gateway.activity import Activity
from mii_gateway.errors import replica_failed
from mii_gateway.metrics import Metrics
from mii_gateway.queue import ReplicaQueue
from mii_gateway.record import Record
from mii_gateway.replicas import ReplicaTable, State
from mii_gateway.retry import RetryBudget, may_retry
from mii_gateway.work import Lease, Work

T = TypeVar("T")

Reason = Literal["connect", "broken", "refused"]

_WORDS: dict[Reason, str] = {
    "connect": "could not be reached",
    "broken": "broke the connection before it answered",
    "refused": "refused the request because it loads or drains",
}


class ReplicaFailed(Exception):  # noqa: N818 - it reads as what it is
    """An attempt that failed before its first response byte, so that another replica may take the request."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(_WORDS[reason])
        self.reason = reason


class Dispatcher:
    def __init__(
        self,
        table: ReplicaTable,
        queue: ReplicaQueue,
        budget: RetryBudget,
        activity: Activity,
        metrics: Metrics,
    ) -> None:
        self._table = table
        self._activity = activity
        self._queue = queue
        self._budget = budget
        self._metrics = metrics

    async def run(self, work: Work, record: Record, attempt: Callable[[Lease], Awaitable[T]]) -> T:
        """Calls `attempt` with a lease, and again with another while it raises ReplicaFailed.

        Raises Refusal when the queue does, or when no further attempt is allowed.
        """
        with self._activity.request():
            try:
                return await self._run(work, record, attempt)
            finally:
                self._queue.charge(work.tenant, record.output_tokens)

    def lost(self, lease: Lease, reason: Reason) -> None:
        """Takes the replica out of rotation until a health check passes."""
        lease.lost = True
        self._table.failed(lease.replica, State.UNREADY if reason == "refused" else State.DOWN)

    async def _run(self, work: Work, record: Record, attempt: Callable[[Lease], Awaitable[T]]) -> T:
        self._budget.deposit()
        tried: list[tuple[str, int]] = []
        while True:
            lease = await self._lease(work, record, tried)
            try:
                answer = await attempt(lease)
                if not lease.lost:
                    lease.replica.breaker.worked()
                return answer
            except ReplicaFailed as failure:
                self.lost(lease, failure.reason)
                tried.append(lease.replica.identity)
                record.failures.append(failure.reason)
                if not (may_retry(record.failures) and self._budget.withdraw()):
                    raise replica_failed(lease.replica.name, str(failure), len(tried)) from failure
                self._metrics.retries.labels(failure.reason).inc()
            finally:
                lease.release()

    async def _lease(self, work: Work, record: Record, tried: list[tuple[str, int]]) -> Lease:
        began = time.perf_counter()
        try:
            lease = await self._queue.lease(work, tried)
        finally:
            record.queued(time.perf_counter() - began)
        record.replica = lease.replica.name
        return lease
