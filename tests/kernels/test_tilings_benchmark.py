"""benchmarks/tilings.py: every tiling is right and counted, on the emulator; times need a GPU."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mii_kernels._lib import Library
from mii_kernels.cuda import arguments
from mii_kernels.cuda.skinny_gemm import Tiling

from .conftest import Kernels

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    monkeypatch.delitem(sys.modules, "tilings", raising=False)
    import tilings

    return tilings


@pytest.fixture
def library(kernels: Kernels) -> Library:
    if arguments.capability(kernels.device) != (9, 0):
        pytest.skip("needs compute capability 9.0")
    found: Library = kernels.run.linear.args[0]
    return found


def test_a_row_has_all_tilings_and_the_one_chosen(
    bench: ModuleType, library: Library, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([4.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 1.5])
    monkeypatch.setattr(bench, "time_us", lambda run, sets: next(times))
    monkeypatch.setattr(bench, "ROTATED_BYTES", 0)
    tilings = [Tiling(rows, splits) for splits in (1, 2) for rows in (32, 40, 48, 56, 64)]
    monkeypatch.setattr(bench.skinny_gemm, "tilings", lambda *_: tilings)
    monkeypatch.setattr(bench.skinny_gemm, "tiling", lambda *_: Tiling(48, 1))
    row = bench.measure(library, kernels.device, 8, 72, 256)
    assert (row["bench"], row["tokens"], row["n"], row["k"]) == ("tilings", 8, 72, 256)
    assert (row["chosen"], row["over_fastest"], row["torch_us"]) == ("48/1", 1.5, 1.5)
    assert list(row["us"])[:6] == ["32/1", "40/1", "48/1", "56/1", "64/1", "32/2"]
    assert row["us"]["40/1"] == 2.0


def test_a_tiling_that_is_wrong_is_not_timed(
    bench: ModuleType, library: Library, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.skinny_gemm, "tiled", lambda library, x, weight, *_: x @ weight.T + 1)
    monkeypatch.setattr(bench, "ROTATED_BYTES", 0)
    sets = bench.operands(kernels.device, 8, 64, 64)
    with pytest.raises(SystemExit, match=r"32/1 of \(64, 64\) by 8: an error of"):
        bench.time_tiling(library, sets, sets[0][0].double() @ sets[0][1].double().T, Tiling(32, 1))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--weights=4096x100", "'4096x100' is not NxK"),
        ("--weights=64x64,x64", "'x64' is not NxK"),
        ("--tokens=8,65", "'65' is not a number from 1 to 64"),
        ("--tokens=", "'' is not a number"),
    ],
)
def test_other_shapes_are_refused(option: str, said: str) -> None:
    assert said in refusal(option)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    assert "needs a GPU of compute capability 9.0" in refusal()


def refusal(*options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / "tilings.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr
