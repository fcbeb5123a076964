"""Installs the build of torch that fits this machine: the CPU's, or CUDA's where there is an NVIDIA GPU.

python tools/install_torch.py 2.13.0
"""

import importlib.util
import shutil
import subprocess
import sys

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pip(*arguments: str, silent: bool = False) -> bool:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    return subprocess.run(command, stderr=subprocess.DEVNULL if silent else None).returncode == 0


def install(version: str) -> bool:
    """From where pip looks anyway, such as a folder of wheels; else from PyTorch's own index."""
    if shutil.which("nvidia-smi"):
        return pip(f"torch=={version}")
    wanted = f"torch=={version}+cpu"
    return pip(wanted, silent=True) or pip(wanted, "--extra-index-url", CPU_INDEX)


def main() -> int:
    if importlib.util.find_spec("torch") is not None:
        return 0
    if install(sys.argv[1]):
        return 0
    print(
        f"torch {sys.argv[1]} for this machine cannot be installed. "
        f"Install a CPU build of torch >= 2.11 into {sys.prefix} by hand and run make again.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
