"""How much of a replica is in use. Pure.

Utilisation is the largest of three shares, each of what the replica says in /v1/info that it can do at once:

    streams        / token_budget (or max_running, if it says so and that is less):
                     every running stream takes a token of each forward
    tokens held    / kv_blocks * block_size: prompts, and EXPECTED_OUTPUT tokens for each answer
    tokens to read / prefill_tokens_per_second * READ_SECONDS: prompts whose first token has not come

1.0 is full; more means that requests wait inside the replica.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXPECTED_OUTPUT = 256  # tokens of an answer whose length is not known before it ends
READ_SECONDS = 2.0  # of prompts to read that make a replica full
HOLD_AT = 2.0  # share of streams or tokens from which requests wait here, where they can still go elsewhere


@dataclass(frozen=True)
class Capacity:
    streams: int
    kv_tokens: int
    prefill_tokens_per_second: float

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Capacity":
        """From /v1/info. Raises KeyError, TypeError or ValueError if it is another program's."""
        capacity = cls(
            streams=int(min(info["token_budget"], info.get("max_running", info["token_budget"]))),
            kv_tokens=int(info["kv_blocks"] * info["block_size"]),
            prefill_tokens_per_second=float(info["prefill_tokens_per_second"]),
        )
        if min(capacity.streams, capacity.kv_tokens) <= 0 or capacity.prefill_tokens_per_second < 0:
            raise ValueError(f"/v1/info makes no sense: {capacity}")
        return capacity

    @property
    def readable(self) -> float:
        """Tokens of prompts that it reads in READ_SECONDS."""
        return max(self.prefill_tokens_per_second * READ_SECONDS, 1.0)


DEFAULT = Capacity(streams=256, kv_tokens=256 * 2048, prefill_tokens_per_second=8192.0)  # of another program


def utilization(capacity: Capacity, *, streams: int, tokens: int, unread: int) -> float:
    """`tokens` are held by all streams together; `unread` of them are prompt tokens still to be read."""
    return max(occupancy(capacity, streams=streams, tokens=tokens), unread / capacity.readable)


def occupancy(capacity: Capacity, *, streams: int, tokens: int) -> float:
    return max(streams / capacity.streams, tokens / capacity.kv_tokens)
