"""Whether a failed request may try again: per request (pure), and for all together (a token bucket)."""

import time
from collections.abc import Callable, Sequence

MAX_ATTEMPTS = 8
MAX_BROKEN = 3  # a request that has broken this many replicas may be what breaks them

DEPOSIT = 0.2  # retries that each request pays for
RATE = 10.0  # retries a second that are always there
RESERVE = 1024.0  # retries saved up at most: one replica's open requests when it dies


def may_retry(failures: Sequence[str]) -> bool:
    """After these failures of one request, latest last."""
    return len(failures) < MAX_ATTEMPTS and failures.count("broken") < MAX_BROKEN


class RetryBudget:
    """Bounds the load that retries add, so that they cannot keep a sick deployment down."""

    def __init__(self, reserve: float = RESERVE, clock: Callable[[], float] = time.monotonic) -> None:
        self._reserve = reserve
        self._clock = clock
        self._tokens = reserve
        self._seen = clock()

    def deposit(self) -> None:
        """A new request has arrived."""
        self._add(DEPOSIT)

    def withdraw(self) -> bool:
        """Takes one retry, if there is one."""
        now = self._clock()
        self._add((now - self._seen) * RATE)
        self._seen = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._tokens + tokens, self._reserve)
