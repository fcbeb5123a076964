"""Whether anybody wants something, and since when not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Activity:
    """Counts requests for replicas, whether they wait or run. Refused ones and health checks are none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = 0
        self._last = clock()

    @contextmanager
    def request(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._last = self._clock()

    @property
    def idle_seconds(self) -> float:
        """Since the last request ended, or since the start; 0 while there is one."""
        return 0.0 if self._open else self._clock() - self._last
