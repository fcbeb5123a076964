"""The emulator that kernels are tested in does what a GPU does, and finds what a GPU would not forgive."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mii_kernels import build

from .emulated import build_emulated

PROBES = Path(__file__).with_name("probes.cu")


class Probes:
    def __init__(self, path: Path, device: str) -> None:
        self.device = device
        self._dll = ctypes.CDLL(str(path))
        self._dll.probe_error_string.restype = ctypes.c_char_p

    def run(self, name: str, *args: Any) -> None:
        pointers = [ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, Tensor) else arg for arg in args]
        code = self._dll[f"probe_{name}"](*pointers, ctypes.c_void_p(0))
        if code:
            raise RuntimeError(self._dll.probe_error_string(code).decode())


@pytest.fixture(scope="module")
def emulator(pytestconfig: pytest.Config) -> Probes:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    return Probes(build_emulated(pytestconfig.cache.mkdir("emulator"), compiler, [PROBES]), "cpu")


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def probes(request: pytest.FixtureRequest, tmp_path: Path) -> Probes:
    """The same kernels in the emulator and on a GPU."""
    if request.param == "emulated":
        return request.getfixturevalue("emulator")
    nvcc = shutil.which("nvcc")
    if nvcc is None or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and nvcc")
    library = tmp_path / "libprobes.so"
    subprocess.run([nvcc, *build.FLAGS, f"-I{build.SOURCES}", "-o", library, PROBES], check=True)
    return Probes(library, "cuda")


@pytest.mark.parametrize("seed", range(3))
def test_tensor_core_product(probes: Probes, seed: int) -> None:
    torch.manual_seed(seed)
    a, b = torch.randn(16, 16).bfloat16().to(probes.device), torch.randn(16, 8).bfloat16().to(probes.device)
    c = torch.full((16, 8), torch.nan, device=probes.device)
    probes.run("product", c, a, b, 1)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("in_registers", [0, 1])
def test_warpgroup_product(probes: Probes, in_registers: int) -> None:
    needs_hopper(probes)
    a = torch.randn(64, 64).bfloat16().to(probes.device)
    b = torch.randn(64, 128).bfloat16().to(probes.device)
    c = torch.full((64, 128), torch.nan, device=probes.device)
    probes.run("warpgroup_product", c, a, b if in_registers else b.T.contiguous(), in_registers, 1)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), atol=1e-4, rtol=1e-4)


def test_named_barriers_give_turns(probes: Probes) -> None:
    needs_hopper(probes)
    out = torch.full((20,), -1, dtype=torch.int32, device=probes.device)
    probes.run("take_turns", out, 10, 1)
    assert out.tolist() == [0, 1] * 10


def needs_hopper(probes: Probes) -> None:
    if probes.device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs compute capability 9.0")


def test_warp_functions(probes: Probes) -> None:
    out = torch.full((6, 32), -1, dtype=torch.int32, device=probes.device)
    probes.run("warp_functions", out)
    lanes = range(32)
    assert out.tolist() == [
        [((i + 5) % 32) ** 2 for i in lanes],
        [i ^ 9 if (i ^ 9) // 8 <= i // 8 else i for i in lanes],
        [i - 3 if i % 16 >= 3 else i for i in lanes],
        [i + 3 if i + 3 < 32 else i for i in lanes],
        [sum(1 << i for i in range(0, 32, 3))] * 32,
        [2] * 16 + [2] * 16,
    ]


@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_blocks_share_memory(probes: Probes, threads: int) -> None:
    out = torch.zeros(3, dtype=torch.int32, device=probes.device)
    probes.run("block_sums", out, 3, threads, 4 * threads, 1)
    assert out.tolist() == [threads * sum(range(b, b + threads)) for b in range(3)]


def test_a_missing_barrier_shows(emulator: Probes) -> None:
    out = torch.zeros(3, dtype=torch.int32)
    emulator.run("block_sums", out, 3, 64, 256, 0)
    assert out.tolist() != [64 * sum(range(b, b + 64)) for b in range(3)]


def test_a_copy_that_is_not_waited_for_shows(emulator: Probes) -> None:
    a, b = torch.ones(16, 16).bfloat16(), torch.ones(16, 8).bfloat16()
    c = torch.zeros(16, 8)
    emulator.run("product", c, a, b, 0)
    assert not torch.equal(c, torch.full((16, 8), 16.0))


def test_a_tile_that_is_not_waited_for_is_found(emulator: Probes) -> None:
    a, b, c = torch.ones(64, 64).bfloat16(), torch.ones(128, 64).bfloat16(), torch.zeros(64, 128)
    with pytest.raises(RuntimeError, match="tile copies that nothing waited for in block"):
        emulator.run("warpgroup_product", c, a, b, 0, 0)


def test_a_write_past_shared_memory_is_found(emulator: Probes) -> None:
    with pytest.raises(
        RuntimeError, match=r"past the dynamic shared memory in block \(0, 0, 0\).*block_sums"
    ):
        emulator.run("block_sums", torch.zeros(1, dtype=torch.int32), 1, 64, 252, 1)


@pytest.mark.parametrize(("at_barrier", "waits_at"), [(1, "__syncthreads"), (0, "__syncwarp")])
def test_a_deadlock_is_named(emulator: Probes, at_barrier: int, waits_at: str) -> None:
    with pytest.raises(RuntimeError, match=rf"deadlock in block \(0, 0, 0\).*is at {waits_at}.*kernel stuck"):
        emulator.run("stuck", at_barrier)
    test_blocks_share_memory(emulator, 64)  # the next launch is none the worse for it
