"""Which GPUs each replica sees. The inventory asks the machine; the assignment is pure."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import msgspec

from mii.errors import MIIError

_LOCAL_NAMES = ("localhost", "127.0.0.1")
_QUERY = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
_MIB = 2**20


class Gpu(msgspec.Struct, frozen=True):
    """A GPU of this machine, by the name that CUDA_VISIBLE_DEVICES takes."""

    name: str
    memory_bytes: int | None = None


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, else all that nvidia-smi lists."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    listing = "" if chosen == "" or not shutil.which(_QUERY[0]) else _ask_driver()
    return select_gpus(chosen, listing)


def select_gpus(chosen: str | None, listing: str) -> list[Gpu]:
    """From the value of CUDA_VISIBLE_DEVICES (None: unset) and nvidia-smi's lines `index, uuid, MiB`."""
    installed: dict[str, Gpu] = {}
    names = []
    for line in listing.splitlines():
        index, uuid, mib = (part.strip() for part in line.split(","))
        memory = int(mib) * _MIB if mib.isdigit() else None
        installed |= {name: Gpu(name, memory) for name in (index, uuid)}
        names.append(index)
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [installed.get(name, Gpu(name)) for name in names]


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_gpus(gpus: Sequence[Gpu], *, replicas: int, per_replica: int) -> list[dict[str, str]]:
    """Environment of each replica: its own GPUs, in order. Nothing with none per replica (the CPU)."""
    needed = replicas * per_replica
    if needed > len(gpus):
        names = ", ".join(gpu.name for gpu in gpus) or "none"
        raise MIIError(
            f"{replicas} replica(s) of {per_replica} GPU(s) need {needed}, but {len(gpus)} are visible "
            f"({names}): lower the replicas, or widen CUDA_VISIBLE_DEVICES"
        )
    if not per_replica:
        return [{}] * replicas
    return [_visible(gpus[start : start + per_replica]) for start in range(0, needed, per_replica)]


def map_gpus(device_map: Any, gpus: Sequence[Gpu], *, replicas: int) -> list[dict[str, str]]:
    """Environment of each replica under an explicit device_map of MII's; numbers count the visible GPUs.

    N is the GPU of the only replica, [N, …] is one a replica, [[…], …] one list a replica, and
    {"localhost": …} wraps any of these.
    """
    groups = gpu_groups(device_map)
    if len(groups) != replicas:
        raise MIIError(f"device_map gives GPUs to {len(groups)} replica(s), but replica_num is {replicas}")
    return [_visible([_pick(gpus, number) for number in group]) for group in groups]


def gpu_groups(device_map: Any) -> list[list[int]]:
    """The GPU numbers of each replica."""
    if isinstance(device_map, dict):
        return _of_this_host(device_map)
    if isinstance(device_map, int):
        return [[device_map]]
    return [[entry] if isinstance(entry, int) else list(entry) for entry in device_map]


def _of_this_host(device_map: dict[str, Any]) -> list[list[int]]:
    foreign = [host for host in device_map if host not in _LOCAL_NAMES]
    if foreign or len(device_map) != 1:
        hosts = ", ".join(foreign or device_map) or "no host"
        raise MIIError(f"device_map names {hosts}: only localhost is served; for more hosts use a cluster")
    return gpu_groups(next(iter(device_map.values())))


def _pick(gpus: Sequence[Gpu], number: int) -> Gpu:
    if number >= len(gpus):
        raise MIIError(f"device_map names GPU {number}, but {len(gpus)} GPU(s) are visible here")
    return gpus[number]


def _visible(gpus: Sequence[Gpu]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.name for gpu in gpus)}


def _ask_driver() -> str:
    answer = subprocess.run(_QUERY, capture_output=True, text=True, check=False)
    return answer.stdout if answer.returncode == 0 else ""
