"""Figures that are printed and kept: one JSON object a line, in a file named after its day."""

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mii.bench.hardware import hardware


@cache
def context() -> dict[str, Any]:
    return {"hardware": hardware(), "torch": torch.__version__}


def report(row: dict[str, Any], directory: Path | None) -> None:
    """Prints the row of a bench, with what it ran on, and keeps it if there is a directory for it."""
    line = json.dumps(row | context())
    print(line, flush=True)
    if directory:
        save(directory, row["bench"], line)


def save(directory: Path, bench: str, line: str) -> Path:
    """Appends to DIR/2026-01-31-offline.jsonl, whose path it returns."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{datetime.now(UTC):%Y-%m-%d}-{bench}.jsonl"
    with path.open("a") as file:
        file.write(line + "\n")
    return path
