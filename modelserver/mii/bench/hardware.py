"""What a figure was measured on, for every benchmark's JSON lines."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import mii


def hardware() -> dict[str, Any]:
    """This machine: processor, usable cores, memory in GiB, names of its GPUs, versions. No torch needed."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpu_names(),
        "python": platform.python_version(),
        "mii": mii.__version__,
    }


def _cpu_name() -> str:
    """From /proc/cpuinfo; virtual machines may show only a family there."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []
