"""The replicas that the gateway knows: their state, and the work it has put on them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from mii_gateway import balance
from mii_gateway.discovery import Address

KEY_BYTES = 1024  # of a request, enough to tell system prompts apart


class State(StrEnum):
    DOWN = "down"  # does not answer, or broke a connection; where every replica starts
    UNREADY = "unready"  # answers, but loads or drains
    READY = "ready"


@dataclass(frozen=True)
class Work:
    """What routing knows of a request."""

    size: int  # bytes
    key: bytes  # equal for requests that are better off on the same replica

    @classmethod
    def of(cls, body: bytes) -> "Work":
        return cls(len(body), body[:KEY_BYTES])

    @property
    def prompt_tokens(self) -> int:
        return balance.estimate_tokens(self.size)


class Replica:
    """One model server. Only the table below changes its state."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.name = address.name
        self.state = State.DOWN
        self.streams = 0
        self.prompt_tokens = 0
        self.incarnation = 0  # how often it became ready; what failed in one life may work in the next
        self.failures = 0  # seen by requests
        self.suspected = asyncio.Event()  # asks for a health check now

    @property
    def identity(self) -> tuple[str, int]:
        return self.name, self.incarnation


class Lease:
    """A request's share of a replica's load, from the choice until `release`."""

    def __init__(self, replica: Replica, work: Work) -> None:
        self.replica = replica
        self._prompt_tokens = work.prompt_tokens
        self._released = False
        replica.streams += 1
        replica.prompt_tokens += self._prompt_tokens

    def first_byte(self) -> None:
        """The prompt has been read: what remains is a running stream."""
        self.replica.prompt_tokens -= self._prompt_tokens
        self._prompt_tokens = 0

    def release(self) -> None:
        if not self._released:
            self._released = True
            self.first_byte()
            self.replica.streams -= 1


class ReplicaTable:
    """All replicas, and who wants to know when one changes."""

    def __init__(self) -> None:
        self._replicas: dict[str, Replica] = {}
        self._listeners: list[Callable[[], None]] = []
        self.known = False  # whether discovery has said who they are

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after every change of state or membership, on the event loop."""
        self._listeners.append(listener)

    def all(self) -> list[Replica]:
        return list(self._replicas.values())

    def count(self) -> Counter[State]:
        return Counter(replica.state for replica in self._replicas.values())

    @property
    def ready(self) -> bool:
        return any(replica.state is State.READY for replica in self._replicas.values())

    def update(self, addresses: frozenset[Address]) -> None:
        """Makes these the replicas. Requests on one that left go on; it gets no new ones."""
        kept = {r.name: r for r in self._replicas.values() if r.address in addresses}
        fresh = (Replica(address) for address in sorted(addresses) if address.name not in kept)
        self._replicas = kept | {replica.name: replica for replica in fresh}
        self.known = True
        self._changed()

    def lease(self, work: Work, tried: Collection[tuple[str, int]]) -> Lease | None:
        """Puts `work` on the best ready replica that has not been tried; None if there is none."""
        candidates = [
            r for r in self._replicas.values() if r.state is State.READY and r.identity not in tried
        ]
        replica = balance.choose(candidates, work.key)
        return Lease(replica, work) if replica else None

    def observe(self, replica: Replica, state: State, failures: int) -> None:
        """A health check's result; void if a request has failed since the check began."""
        if replica.failures == failures and replica.state is not state:
            replica.incarnation += state is State.READY
            replica.state = state
            self._changed()

    def failed(self, replica: Replica, state: State) -> None:
        """A request met `state`: out of rotation at once, until a health check passes."""
        replica.failures += 1
        replica.state = state
        replica.suspected.set()
        self._changed()

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()
