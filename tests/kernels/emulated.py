"""The kernels compiled with g++ for the CPU: csrc/*.cu over the CUDA runtime of emulator/."""

import hashlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mii_kernels import build

EMULATOR = Path(__file__).with_name("emulator")
FLAGS = (
    "-std=c++17 -O2 -g1 -fPIC -fno-gnu-unique -DMII_EMULATED -U_FORTIFY_SOURCE "
    f"-Wall -Werror -Wno-unknown-pragmas -Wno-maybe-uninitialized -I{EMULATOR} -I{build.SOURCES}"
).split()


def build_emulated(folder: Path, compiler: str, units: Sequence[Path] | None = None) -> Path:
    """The library of these sources. `folder` keeps what is compiled. `units`: instead of csrc/*.cu."""
    units = sorted(build.SOURCES.glob("*.cu")) if units is None else units
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda unit: _compiled(compiler, unit, folder), units))
    command = [compiler, "-shared", *map(str, objects)]
    return _made(folder / f"lib-{_digest(command)}.so", command)


def _compiled(compiler: str, unit: Path, folder: Path) -> Path:
    headers = [path for place in (EMULATOR, build.SOURCES) for path in sorted(place.glob("*h"))]
    command = [compiler, *FLAGS, "-x", "c++", "-c", str(unit)]
    return _made(folder / f"{unit.stem}-{_digest(command, unit, *headers)}.o", command)


def _digest(command: list[str], *files: Path) -> str:
    sha = hashlib.sha256(repr(command).encode())
    for path in files:
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def _made(target: Path, command: list[str]) -> Path:
    """The command's output; run if it is not there yet, by as many processes as like to."""
    if not target.exists():
        fresh = target.with_suffix(f".{os.getpid()}")
        done = subprocess.run([*command, "-o", str(fresh)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        fresh.replace(target)
    return target
