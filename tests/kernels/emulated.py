"""The kernels compiled with g++ for the CPU: csrc/*.cu over the CUDA runtime of emulator/."""

import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mii_kernels import build

EMULATOR = Path(__file__).with_name("emulator")
FLAGS = (
    "-std=c++17 -O2 -g1 -fPIC -fno-gnu-unique -DMII_EMULATED -U_FORTIFY_SOURCE "
    f"-Wall -Werror -Wno-unknown-pragmas -Wno-maybe-uninitialized -I{EMULATOR}"
).split()


def build_emulated(
    folder: Path, compiler: str, units: list[Path] | None = None, name: str = "kernels"
) -> Path:
    """The library of these sources; compiled if `folder` has it not yet. `units`: instead of csrc/*.cu."""
    units = sorted(build.SOURCES.glob("*.cu")) if units is None else units
    contents = [path.read_text() for path in (*sorted(EMULATOR.iterdir()), *units)]
    target = folder / f"lib{name}-{build.digest(FLAGS, contents)}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch, ThreadPoolExecutor() as pool:
            fresh = Path(scratch) / target.name
            objects = list(pool.map(lambda unit: _compile(compiler, unit, Path(scratch)), units))
            _run([compiler, "-shared", "-o", str(fresh), *map(str, objects)])
            fresh.replace(target)
    return target


def _compile(compiler: str, unit: Path, folder: Path) -> Path:
    out = folder / f"{unit.stem}.o"
    _run([compiler, *FLAGS, f"-I{build.SOURCES}", "-x", "c++", "-c", str(unit), "-o", str(out)])
    return out


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
