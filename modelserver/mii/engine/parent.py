"""Ending with one's parent, for the engine's processes."""

import os
import shutil
import sys
import threading
from pathlib import Path


def end_with_parent(sockets: Path) -> threading.Thread:
    """Watches from a thread of its own.

    The parent holds our standard input; when it is gone, however it went, so are we and the directory
    `sockets`.
    """
    watcher = threading.Thread(target=_watch, args=(sockets,), daemon=True)
    watcher.start()
    return watcher


def _watch(sockets: Path) -> None:
    # Not sys.stdin: its lock, held here, would keep the interpreter from ending.
    while os.read(sys.stdin.fileno(), 1):
        pass
    shutil.rmtree(sockets, ignore_errors=True)
    os._exit(0)
