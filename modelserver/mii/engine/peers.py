"""Opening the ranks' buffers to each other: all of the ranks do, or none.

A rank allocates its buffer, all exchange handles, each maps the others' memory, and a first sum shows that
what one writes reaches the rest. Between these steps the ranks tell each other whether they could.
"""

import time
from collections.abc import Callable

import torch

from mii.models.shard import Shard
from mii_kernels.cuda.all_reduce import MAX_RANKS, PeerReducer
from mii_kernels.cuda.peer_memory import HANDLE_BYTES, PeerMemory
from mii_kernels.ops import KernelError, Library

RECORD_BYTES = 512  # of what the ranks exchange
_TRIAL_SECONDS = 20.0
_POLL_SECONDS = 0.001

Exchange = Callable[[bytes], list[bytes]]  # RECORD_BYTES of this rank to those of all, by rank


class UnreachableError(Exception):
    """The ranks do not reach each other's memory. All of them raise it, with the same reason."""


class Peers:
    """One rank's buffer and its view of the others'; `reducer` sums through them."""

    def __init__(self, library: Library, shard: Shard, device: torch.device, exchange: Exchange) -> None:
        """Raises UnreachableError on all ranks if one of them cannot."""
        self._exchange = exchange
        self._rank = shard.rank
        self._memory: PeerMemory | None = None
        self.abandoned = torch.zeros(1, dtype=torch.int32, pin_memory=device.type == "cuda")
        try:
            handles = self._agree(lambda: self._allocate(library, shard))
            buffers: list[int] = []
            self._agree(lambda: buffers.extend(self._memory.open(handles)) if self._memory else None)
            self.reducer = PeerReducer(library, shard.rank, buffers, self.abandoned)
            self._agree(lambda: self._try(device, shard.size))
        except UnreachableError:
            self.close()
            raise

    def abandon(self) -> None:
        """Ends what is under way on the device, and all that may follow. From any thread."""
        self.abandoned.fill_(1)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _allocate(self, library: Library, shard: Shard) -> bytes:
        if shard.size > MAX_RANKS:
            raise KernelError(f"{shard.size} ranks are more than {MAX_RANKS}")
        self._memory = PeerMemory(library, shard.rank, shard.size)
        return self._memory.handle

    def _agree(self, step: Callable[[], bytes | None]) -> list[bytes]:
        """Every rank's result of the same step. Raises UnreachableError if any has failed."""
        try:
            failure, result = "", step() or b""
        except (KernelError, RuntimeError) as error:
            failure, result = f"rank {self._rank}: {error}", b""
        records = self._exchange(_record(failure, result))
        failures, results = zip(*map(_parsed, records), strict=True)
        if any(failures):
            raise UnreachableError(next(filter(None, failures)))
        return list(results)

    def _try(self, device: torch.device, ranks: int) -> None:
        x = torch.full((64,), float(self._rank + 1), device=device)
        self.reducer.one_shot(x)
        if device.type == "cuda":
            self._wait_for(torch.cuda.current_stream(device).record_event())
        if x.tolist() != [ranks * (ranks + 1) / 2] * 64:
            raise KernelError(f"a sum over the ranks' memory was {x[0].item()}")

    def _wait_for(self, done: torch.cuda.Event) -> None:
        deadline = time.monotonic() + _TRIAL_SECONDS
        while not done.query():
            if time.monotonic() > deadline:
                self.abandon()
                done.synchronize()
                raise KernelError(f"what another rank wrote did not arrive within {_TRIAL_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)


def _record(failure: str, result: bytes) -> bytes:
    """The result comes first, then the failure's text."""
    words = failure.encode()[: RECORD_BYTES - HANDLE_BYTES]
    return (result.ljust(HANDLE_BYTES, b"\0") + words).ljust(RECORD_BYTES, b"\0")


def _parsed(record: bytes) -> tuple[str, bytes]:
    return record[HANDLE_BYTES:].rstrip(b"\0").decode(errors="replace"), record[:HANDLE_BYTES]
