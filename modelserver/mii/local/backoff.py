"""How long to wait before a process is started again. Pure."""

from dataclasses import dataclass


@dataclass
class Backoff:
    """Doubles from `first` to `last` seconds; a run that was healthy for `reset_after` starts over."""

    first: float = 0.2
    last: float = 10.0
    reset_after: float = 30.0
    _next: float = 0.0

    def after(self, healthy_seconds: float) -> float:
        """Seconds to wait after a run that was ready for `healthy_seconds`."""
        if healthy_seconds >= self.reset_after or not self._next:
            self._next = self.first
        delay = self._next
        self._next = min(self.last, 2 * delay)
        return delay
