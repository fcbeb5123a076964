"""`mii fetch MODEL`: downloads a model to the cache and tells how far it is, one JSON object a line.

    {"bytes": 1200000000, "total": 14500000000, "idle_seconds": 0.4}
    {"error": "org/name is gated: …"}

The operator runs it in a Job before a server starts, and reads its last line.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mii.errors import MIIError

PERIOD = 5.0  # seconds between two lines


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "fetch",
        help="download a model to the cache",
        description="Downloads a model to the cache ($HF_HOME), with its progress as JSON lines on stdout.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", help="Hugging Face id, .gguf file in one (org/name/file.gguf), or URL of one"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit (default: main)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 with everything there, 1 after a line with the error."""
    from huggingface_hub import constants

    from mii.models import snapshot

    total, cache = size(args.model, args.revision), Path(constants.HF_HOME)
    ended = threading.Event()
    report = threading.Thread(target=_report, args=(lambda: stored(cache), total, ended), daemon=True)
    report.start()
    try:
        snapshot.fetch(args.model, args.revision, progress=False)
    except MIIError as error:
        _say(error=str(error))
        return 1
    finally:
        ended.set()
        report.join()
    _say(bytes=total, total=total, idle_seconds=0.0)
    return 0


def size(model: str, revision: str) -> int:
    """Bytes of the weights that will be fetched; 0 if the hub does not say, or they are not the hub's."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=10).siblings or []
    except Exception:  # whatever is wrong, the download says it better
        return 0
    weights = [f for f in found if f.rfilename.endswith(".safetensors") and "/" not in f.rfilename]
    return sum(file.size or 0 for file in weights)


def stored(cache: Path) -> int:
    """Bytes of all files under `cache`, half-downloaded ones too."""
    return sum(_size(path) for path in cache.rglob("*") if path.is_file() and not path.is_symlink())


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512  # what has arrived: files may be laid out in full at first
    except FileNotFoundError:  # moved to its place meanwhile
        return 0


def _report(measure: Callable[[], int], total: int, ended: threading.Event) -> None:
    """Says until `ended` how much has arrived since the start, and for how long nothing has."""
    before = last = measure()
    moved_at = time.monotonic()
    while not ended.wait(PERIOD):
        now = measure()
        if now != last:
            last, moved_at = now, time.monotonic()
        moved = max(0, now - before)
        _say(
            bytes=min(moved, total or moved), total=total, idle_seconds=round(time.monotonic() - moved_at, 1)
        )


def _say(**line: object) -> None:
    print(json.dumps(line), flush=True)
