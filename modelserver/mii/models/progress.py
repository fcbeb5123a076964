"""Progress of long transfers: a bar on a terminal, one log line with the rate elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)


class Meter:
    """Counts the bytes of one transfer, and draws them on `bar` if there is one."""

    def __init__(self, bar: "Progress | None", title: str, total: int | None) -> None:
        self.moved = 0
        self._bar = bar
        self._task = bar.add_task(title, total=total) if bar else None

    def start_at(self, position: int, total: int | None) -> None:
        """What is there already, of how many bytes (None: unknown). It does not count as moved."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=position, total=total)

    def advance(self, num_bytes: int) -> None:
        self.moved += num_bytes
        if self._bar and self._task is not None:
            self._bar.advance(self._task, num_bytes)


@contextmanager
def transfer_progress(title: str, total: int | None = None, *, show: bool | None = None) -> Iterator[Meter]:
    """Measures a transfer of `total` bytes. `show` None: a bar if stderr is a terminal."""
    start = time.monotonic()
    if sys.stderr.isatty() if show is None else show:
        with _bar() as bar:
            yield Meter(bar, title, total)
        return
    meter = Meter(None, title, total)
    yield meter
    seconds = time.monotonic() - start
    log.info("%s: %s", title, rate(meter.moved, seconds))


@contextmanager
def loading_progress(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Progress of reading a checkpoint of `total_bytes`; yields WeightReader's `on_bytes`."""
    with transfer_progress("loading weights", total_bytes) as meter:
        yield meter.advance


def rate(num_bytes: int, seconds: float) -> str:
    """'1.50 GB in 2.0 s (0.75 GB/s)'; decimal gigabytes."""
    gigabytes = num_bytes / 1e9
    return f"{gigabytes:.2f} GB in {seconds:.1f} s ({gigabytes / max(seconds, 1e-9):.2f} GB/s)"


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
