"""What a detached supervisor tells whoever started it: JSON lines over a pipe, until ready or failed.

supervisor ─Report─> {"type": "event" | "ready" | "failed", …} ─read─> launch
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import IO

import msgspec

from mii.local.child import Event


class Changed(msgspec.Struct, tag="event"):
    event: Event


class Ready(msgspec.Struct, tag="ready"):
    pass


class Failed(msgspec.Struct, tag="failed"):
    message: str


Message = Changed | Ready | Failed


class Report:
    """The supervisor's end, silent after ready() or failed(). That nobody listens is no error."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def event(self, event: Event) -> None:
        self._send(Changed(event))

    def ready(self) -> None:
        self._send(Ready())
        self._close()

    def failed(self, message: str) -> None:
        self._send(Failed(message))
        self._close()

    def _send(self, message: Message) -> None:
        if not self._pipe.closed:
            try:
                self._pipe.write(msgspec.json.encode(message) + b"\n")
                self._pipe.flush()
            except BrokenPipeError:
                self._close()

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()


def read(pipe: Iterable[bytes]) -> Iterator[Message]:
    """The launcher's end."""
    for line in pipe:
        yield msgspec.json.decode(line, type=Message)
