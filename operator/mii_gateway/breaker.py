"""A circuit breaker: keeps requests from a replica that passes health checks but breaks what it gets.

closed ──BREAKS in a row──> open ──pause──> half-open ──one request──> worked: closed
                              ^                                    └─> broke:  open, for longer
"""

import time
from collections.abc import Callable

BREAKS = 3
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds


class Breaker:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._row = 0
        self._open_until = 0.0

    def broke(self) -> None:
        """The replica was ready, and broke a request."""
        self._row += 1
        pause = FIRST_PAUSE * 2.0 ** min(self._row - BREAKS, 16)
        self._open_until = self._clock() + min(pause, LONGEST_PAUSE)

    def worked(self) -> None:
        """A request got its whole answer."""
        self._row = 0

    def admits(self, streams: int) -> bool:
        """Whether one more request may go there besides these."""
        if self._row < BREAKS:
            return True
        return not streams and self._clock() >= self._open_until
