"""What routing knows of a request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mii_gateway import affinity, balance
from mii_gateway.capacity import EXPECTED_OUTPUT

if TYPE_CHECKING:
    from mii_gateway.replicas import Replica

KEY_BYTES = 1024  # of a prompt, enough to tell system prompts apart


@dataclass(frozen=True)
class Work:
    size: int  # bytes
    key: bytes  # equal for requests that are better off on the same replica
    blocks: tuple[int, ...] = ()  # of the prompt, see affinity
    tenant: str = ""  # the name of the API key

    @classmethod
    def of(cls, body: bytes, tenant: str = "") -> "Work":
        prompt = affinity.prompt_of(body)
        return cls(len(body), bytes(prompt[:KEY_BYTES]), affinity.blocks_of(prompt), tenant)

    @property
    def prompt_tokens(self) -> int:
        return balance.estimate_tokens(self.size)


class Lease:
    """A request's share of a replica's load, from the choice until `release`."""

    def __init__(self, replica: "Replica", work: Work, freed: Callable[[], None]) -> None:
        cached = replica.prefixes.match(work.blocks) * affinity.BLOCK_BYTES
        self.replica = replica
        self.lost = False  # whether the replica failed it
        self._tokens = work.prompt_tokens + EXPECTED_OUTPUT
        self._unread = max(work.prompt_tokens - balance.estimate_tokens(cached), 0)
        self._freed = freed
        self._released = False
        replica.prefixes.add(work.blocks)
        replica.streams += 1
        replica.tokens += self._tokens
        replica.prompt_tokens += self._unread

    def first_byte(self) -> None:
        """The prompt has been read: what remains is a running stream."""
        self.replica.prompt_tokens -= self._unread
        self._unread = 0

    def release(self) -> None:
        if not self._released:
            self._released = True
            self.first_byte()
            self.replica.streams -= 1
            self.replica.tokens -= self._tokens
            self._freed()
