"""The replicas that the gateway knows: their state, and the work it has put on them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from enum import StrEnum

from mii_gateway import balance, capacity
from mii_gateway.affinity import PrefixIndex
from mii_gateway.breaker import Breaker
from mii_gateway.capacity import Capacity
from mii_gateway.discovery import Address
from mii_gateway.work import Lease, Work

PREFIX_BLOCKS = 4096  # remembered of a replica that does not tell the size of its cache
MOST_PREFIX_BLOCKS = 2**17  # a megabyte or ten


class State(StrEnum):
    DOWN = "down"  # does not answer, or broke a connection; where every replica starts
    UNREADY = "unready"  # answers, but loads or drains
    READY = "ready"


class Replica:
    """One model server. Only the table below changes its state."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.name = address.name
        self.state = State.DOWN
        self.streams = 0  # requests that it has not finished
        self.tokens = 0  # that these hold, by estimate
        self.prompt_tokens = 0  # of these, prompt tokens that are neither cached nor read
        self.incarnation = 0  # how often it became ready; what failed in one life may work in the next
        self.failures = 0  # seen by requests
        self.suspected = asyncio.Event()  # asks for a health check now
        self.capacity: Capacity | None = None  # None until it has told
        self.prefixes = PrefixIndex(PREFIX_BLOCKS)
        self.breaker = Breaker()

    @property
    def identity(self) -> tuple[str, int]:
        return self.name, self.incarnation

    @property
    def utilization(self) -> float:
        known = self.capacity or capacity.DEFAULT
        return capacity.utilization(
            known, streams=self.streams, tokens=self.tokens, unread=self.prompt_tokens
        )

    @property
    def available(self) -> bool:
        """Whether it can take one more request. One that does not tell its capacity is never full."""
        return self.state is State.READY and self.breaker.admits(self.streams) and not self._full

    @property
    def _full(self) -> bool:
        if self.capacity is None:
            return False
        occupied = capacity.occupancy(self.capacity, streams=self.streams, tokens=self.tokens)
        return self.streams > 0 and occupied >= capacity.HOLD_AT


class ReplicaTable:
    """All replicas, and who wants to know when one changes."""

    def __init__(self, routing: balance.Routing = "auto") -> None:
        self._routing = routing
        self._replicas: dict[str, Replica] = {}
        self._listeners: list[Callable[[], None]] = []
        self._freed: list[Callable[[], None]] = []
        self.known = False  # whether discovery has said who they are

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after every change of state or membership, on the event loop."""
        self._listeners.append(listener)

    def subscribe_freed(self, listener: Callable[[], None]) -> None:
        """Calls `listener` whenever a replica may have become able to take one more request."""
        self._freed.append(listener)

    def all(self) -> list[Replica]:
        return list(self._replicas.values())

    def count(self) -> Counter[State]:
        return Counter(replica.state for replica in self._replicas.values())

    @property
    def ready(self) -> bool:
        return any(replica.state is State.READY for replica in self._replicas.values())

    @property
    def available(self) -> bool:
        """Whether any replica can take one more request."""
        return any(replica.available for replica in self._replicas.values())

    def update(self, addresses: frozenset[Address]) -> None:
        """Makes these the replicas. Requests on one that left go on; it gets no new ones."""
        kept = {r.name: r for r in self._replicas.values() if r.address in addresses}
        fresh = (Replica(address) for address in sorted(addresses) if address.name not in kept)
        self._replicas = kept | {replica.name: replica for replica in fresh}
        self.known = True
        self._changed()

    def lease(self, work: Work, tried: Collection[tuple[str, int]]) -> Lease | None:
        """Puts `work` on the best replica that can take it and has not been tried; None if there is none. One
        that has come back since it was tried is the last choice."""
        untried = [r for r in self._replicas.values() if r.available and r.identity not in tried]
        names = {name for name, _ in tried}
        candidates = [r for r in untried if r.name not in names] or untried
        matched = {r.name: r.prefixes.match(work.blocks) for r in candidates if self._caches(r)}
        replica = balance.choose(candidates, work.key, matched)
        return Lease(replica, work, self.freed) if replica else None

    def observe(self, replica: Replica, state: State, failures: int) -> None:
        """A health check's result; void if a request has failed since the check began."""
        if replica.failures == failures and replica.state is not state:
            if state is State.READY:
                replica.incarnation += 1
                replica.prefixes.clear()
            replica.state = state
            self._changed()
        self.freed()

    def describe(self, replica: Replica, told: Capacity) -> None:
        """What the replica has told of itself, in this life."""
        replica.capacity = told
        replica.prefixes.limit = min(told.kv_tokens // balance.BLOCK_TOKENS, MOST_PREFIX_BLOCKS)

    def failed(self, replica: Replica, state: State) -> None:
        """A request met `state`: out of rotation at once, until a health check passes."""
        if replica.state is State.READY and state is State.DOWN:
            replica.breaker.broke()
        replica.failures += 1
        replica.state = state
        replica.suspected.set()
        self._changed()

    def freed(self) -> None:
        for listener in self._freed:
            listener()

    def _caches(self, replica: Replica) -> bool:
        """Whether it may have read this before: `auto` believes it of those with KV blocks."""
        return self._routing == "prefix" or (self._routing == "auto" and replica.capacity is not None)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
        self.freed()
