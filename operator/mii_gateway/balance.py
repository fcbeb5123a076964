"""Which replica takes a request. Pure: it reads counts and returns a choice.

Load is the gateway's own count of the work it has put on a replica and not yet got back, not a scraped
metric, which would be stale by the time it matters.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Literal, Protocol, TypeVar

Routing = Literal["auto", "least-work", "prefix"]

BLOCK_TOKENS = 64  # of a prefix that are remembered as one
PATIENCE = 2.0  # streams that a replica may be ahead of the least loaded, besides what a known prefix saves
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


def choose(replicas: Iterable[R], key: bytes, matched: Mapping[str, int] | None = None) -> R | None:
    """The replica that has read the longest prefix, else the least loaded. None if there is none.

    `matched` has the blocks that replicas know from the start of the prompt. The longest match wins unless
    waiting there costs more than reading the prefix again elsewhere: a replica that is too far ahead of the
    least loaded is released.
    """
    candidates = list(replicas)
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    least = least_loaded(candidates, key)
    longest = max(matched.values(), default=0) if matched else 0
    if not matched or not longest:
        return least
    knowing = least_loaded([r for r in candidates if matched.get(r.name) == longest], key)
    saved = longest * BLOCK_TOKENS / PROMPT_TOKENS_PER_STREAM
    return knowing if load(knowing) - load(least) <= PATIENCE + saved else least


def least_loaded(candidates: list[R], key: bytes) -> R:
    """Among equals the one that rendezvous hashing gives to `key`.

    Equal keys meet equal replicas while these are equally loaded, in every gateway, without shared state
    (Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996).
    """
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
