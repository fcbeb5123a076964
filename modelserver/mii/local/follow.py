"""Prints what processes write to their logs, each line with the process's name in front."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_INTERVAL = 0.1  # seconds


@contextmanager
def following(logs: Mapping[str, Path], write: Callable[[str, str], None]) -> Iterator[None]:
    """Calls `write(name, line)` for every line that appears in `logs` while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(logs, write, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(logs: Mapping[str, Path], write: Callable[[str, str], None], done: threading.Event) -> None:
    tails: dict[str, BinaryIO] = {}
    last = False
    while True:
        for name, path in logs.items():
            if name not in tails and path.exists():
                tails[name] = open(path, "rb")  # noqa: SIM115 - closed below
            for line in _new_lines(tails.get(name)):
                write(name, line)
        if last:
            break
        last = done.wait(_INTERVAL)  # one more look after the end
    for file in tails.values():
        file.close()


def _new_lines(file: BinaryIO | None) -> Iterator[str]:
    """Complete lines only: half a line is read again next time."""
    while file and (line := file.readline()):
        if not line.endswith(b"\n"):
            file.seek(-len(line), 1)
            return
        yield line.decode(errors="replace").rstrip()
