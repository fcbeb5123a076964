"""How far the model's download to a claim is, read from its Job and what that says. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mii_operator.judgement import Judgement
from mii_operator.manifests import prefetch
from mii_spec.source import FileModel, VolumeModel
from mii_spec.spec import MIIDeployment

STALLED_AFTER = 120.0  # seconds without a byte


@dataclass(frozen=True)
class Progress:
    done: bool = False
    failed: str = ""  # the Job's last words
    waiting: str = ""  # why its pod does not run
    moved: int = 0  # bytes
    total: int = 0  # bytes; 0: not known yet
    idle_seconds: float = 0.0


def read(job: Mapping[str, Any] | None, *, waiting: str = "", line: str = "") -> Progress:
    """`line`: the newest of what `mii fetch` prints, one JSON object a line."""
    state = {
        c["type"]: c for c in (job or {}).get("status", {}).get("conditions") or () if c["status"] == "True"
    }
    if "Complete" in state:
        return Progress(done=True)
    said = _parse(line)
    if "Failed" in state:
        return Progress(failed=said.get("error") or line or state["Failed"].get("message", ""))
    return Progress(
        waiting=waiting or said.get("error", ""),
        moved=int(said.get("bytes", 0)),
        total=int(said.get("total", 0)),
        idle_seconds=float(said.get("idle_seconds", 0)),
    )


def judge(deployment: MIIDeployment, progress: Progress | None, *, loaded: bool) -> Judgement:
    """The condition ModelCached. `loaded`: whether some replica serves it."""
    if isinstance(deployment.spec.source, VolumeModel | FileModel):
        return Judgement("True", "OnVolume", f"{deployment.spec.model} is read where it is")
    if not prefetch.wanted(deployment):
        why = "every replica downloads for itself; spec.cache keeps models on a volume"
        return Judgement("True", "Loaded", why) if loaded else Judgement("Unknown", "DownloadsAtStart", why)
    return _of_job(progress or Progress())


def _of_job(progress: Progress) -> Judgement:
    if progress.done:
        return Judgement("True", "Cached")
    if progress.failed:
        return Judgement("False", "DownloadFailed", progress.failed)
    if progress.waiting:
        return Judgement("False", "DownloadWaiting", progress.waiting)
    amount = _amount(progress)
    if progress.idle_seconds >= STALLED_AFTER:
        return Judgement("False", "DownloadStalled", f"{amount}; no byte for {progress.idle_seconds:.0f} s")
    return Judgement("False", "Downloading", amount)


def _amount(progress: Progress) -> str:
    if not progress.total:
        return "starting"
    gigabytes = f"{progress.moved / 1e9:.1f} of {progress.total / 1e9:.1f} GB"
    return f"{gigabytes} ({100 * progress.moved // progress.total} %)"


def _parse(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
