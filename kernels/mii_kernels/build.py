"""Builds the CUDA kernels: `python -m mii_kernels.build`, one call of nvcc.

The library lies in `lib/` beside this module, in a name with a hash of the sources and the command, so that
one of other sources is never loaded. Neither torch nor a GPU is needed.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).with_name("csrc")
ARCHITECTURES = ("90a", "80")
FLAGS = [
    *("-std=c++17", "-O3", "-shared", "-cudart", "static", "-Werror", "all-warnings"),
    *("-Xcompiler", "-fPIC,-fvisibility=hidden"),
    *(f"-gencode=arch=compute_{name},code=sm_{name}" for name in ARCHITECTURES),
]
NO_NVCC = (
    "the CUDA kernels are not built and there is no nvcc on the PATH to build them with: install the CUDA "
    "toolkit 13.0 and run `python -m mii_kernels.build`, or use `--kernels torch`"
)


class BuildError(Exception):
    """The kernels could not be compiled; the message says why."""


def library_path() -> Path:
    """Where the library of these sources is, or will be."""
    return Path(__file__).with_name("lib") / f"libmii_kernels-{digest(FLAGS)}.so"


def digest(*more: Sequence[str]) -> str:
    """16 hexadecimal digits of the sources' names and contents and of what else matters."""
    sha = hashlib.sha256(repr(more).encode())
    for path in sorted(SOURCES.iterdir()):
        sha.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()[:16]


def command(nvcc: str, output: Path, jobs: int) -> list[str]:
    units = sorted(str(path) for path in SOURCES.glob("*.cu"))
    libraries = Path(nvcc).resolve().parents[1] / "lib"  # where PyPI's nvcc has its own, but does not look
    return [nvcc, *FLAGS, "--threads", str(jobs), f"-L{libraries}", "-o", str(output), *units]


def build(jobs: int | None = None) -> Path:
    """Compiles the library if it is not there; returns its path. Raises BuildError."""
    target = library_path()
    if target.exists():
        return target
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise BuildError(NO_NVCC)
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fresh = Path(scratch) / target.name
        done = subprocess.run(
            command(nvcc, fresh, jobs or os.cpu_count() or 1), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BuildError(f"{nvcc} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        fresh.replace(target)  # at once, so that two builds do not meet
    return target


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mii_kernels.build", description="Builds the CUDA kernels."
    )
    parser.add_argument("--jobs", type=int, help="compilations at once; default: one a core")
    args = parser.parse_args(argv)
    try:
        print(build(args.jobs))
    except (BuildError, OSError) as error:
        print(f"mii_kernels.build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
