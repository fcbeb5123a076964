"""A folder of small files as Kubernetes mounts a Secret, followed as it changes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

INTERVAL = 1.0  # seconds between looks; the kubelet itself takes up to a minute to bring a change

Files = dict[str, bytes]

log = logging.getLogger(__name__)


def read(folder: Path) -> Files:
    """Every file's content, without what Kubernetes keeps there for itself. Raises OSError."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.is_file()
    }


async def changes(folder: Path, known: Files, interval: float = INTERVAL) -> AsyncIterator[Files]:
    """Yields the content whenever it differs from what was last yielded, at first from `known`. Never ends.

    A folder that cannot be read counts as unchanged.
    """
    while True:
        await asyncio.sleep(interval)
        try:
            files = await asyncio.to_thread(read, folder)
        except OSError as error:
            log.warning("cannot read %s: %s", folder, error)
            continue
        if files != known:
            known = files
            yield files
