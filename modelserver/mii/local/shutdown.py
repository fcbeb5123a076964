"""Ends a recorded deployment from another process: asks the gateway, then signals the supervisor."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

from mii.errors import MIIError
from mii.local import state
from mii.local.state import Record

GRACE = 30.0  # seconds beyond the drain, for processes that must be killed
_POLL = 0.05


def end(record: Record, ask: Callable[[], bool]) -> None:
    """Returns when every process of the deployment is gone.

    `ask` requests the end over the deployment's own interface and says whether that was granted. Where it
    was not, the supervisor gets SIGTERM. Raises MIIError when it outlives its drain by far.
    """
    if not (ask() and _gone_within(record, record.drain_timeout + GRACE)):
        with contextlib.suppress(ProcessLookupError):
            if record.alive:
                os.kill(record.pid, signal.SIGTERM)
        if not _gone_within(record, record.drain_timeout + GRACE):
            raise MIIError(f"deployment {record.name!r} does not end; its supervisor is process {record.pid}")
    state.forget(record.name)


def _gone_within(record: Record, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while record.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
