"""Figures that are kept: one JSON object a line, in a file named after its day."""

from datetime import UTC, datetime
from pathlib import Path


def save(directory: Path, bench: str, line: str) -> Path:
    """Appends to DIR/2026-01-31-offline.jsonl, whose path it returns."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{datetime.now(UTC):%Y-%m-%d}-{bench}.jsonl"
    with path.open("a") as file:
        file.write(line + "\n")
    return path
