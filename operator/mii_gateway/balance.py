"""Which replica takes a request. Pure: it reads counts and returns a choice.

Load is the gateway's own count of the work it has put on a replica and not yet got back, not a scraped
metric, which would be stale by the time it matters.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Protocol, TypeVar

PROMPT_TOKENS_PER_STREAM = 512  # unread prompt tokens that weigh as much as one running stream
BYTES_PER_TOKEN = 4  # of English text; a routing estimate needs no tokenizer


class Loaded(Protocol):
    """What the choice looks at."""

    @property
    def name(self) -> str: ...

    @property
    def streams(self) -> int:
        """Requests that the replica has not finished."""

    @property
    def prompt_tokens(self) -> int:
        """Estimated prompt tokens of requests whose first byte has not come."""


R = TypeVar("R", bound=Loaded)


def choose(replicas: Iterable[R], key: bytes) -> R | None:
    """The least loaded replica; among equals the one that rendezvous hashing gives to `key`.

    Equal keys meet equal replicas while these are equally loaded, in every gateway, without shared state
    (Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996). None if there is none.
    """
    candidates = list(replicas)
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    least = min(map(load, candidates))
    equals = [replica for replica in candidates if load(replica) == least]
    return equals[0] if len(equals) == 1 else max(equals, key=lambda replica: rendezvous(replica.name, key))


def load(replica: Loaded) -> float:
    """In units of one running stream."""
    return replica.streams + replica.prompt_tokens / PROMPT_TOKENS_PER_STREAM


def estimate_tokens(prompt_bytes: int) -> int:
    return prompt_bytes // BYTES_PER_TOKEN


def rendezvous(name: str, key: bytes) -> bytes:
    """The weight of a replica for a key; the highest wins."""
    return blake2b(key, digest_size=8, person=blake2b(name.encode(), digest_size=16).digest()).digest()
