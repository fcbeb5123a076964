"""Sums over several GPUs, in a process for each; and the benchmark of them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mii_kernels.reference.all_reduce import all_reduce as truth

RANKS = Path(__file__).with_name("all_reduce_ranks.py")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "all_reduce.py"


def run(*command: str, seconds: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.mark.cuda
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_on_gpus(tmp_path: Path, ranks: int) -> None:
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    done = run(str(RANKS), str(ranks), str(tmp_path), seconds=150)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.cuda
def test_the_benchmark_checks_what_it_measures() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs 2 CUDA devices")
    done = run(str(BENCHMARK), "--ranks", "2", "--bytes", "8192,2097152", "--check", seconds=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"correct": true') == 7 + 4  # above 1 MiB there is no one shot


@pytest.mark.skipif(torch.cuda.device_count() >= 64, reason="there are enough CUDA devices")
def test_the_benchmark_says_how_many_gpus_are_missing() -> None:
    done = run(str(BENCHMARK), "--ranks", "2,64", seconds=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "64 ranks need as many GPUs" in done.stderr


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_what_the_benchmark_times_is_neither_zero_nor_too_large(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    benchmark = importlib.import_module(BENCHMARK.stem)
    parts = [benchmark.small(own, ranks) for own in benchmark.summands(ranks, 8 << 10)]
    assert all(part.all() for part in parts)
    for _ in range(benchmark.CALLS):
        summed = truth(parts)
        parts = [summed] * ranks
    assert summed.float().square().sum().isfinite()  # as the norm computes it
    assert summed.count_nonzero() > 0.99 * summed.numel()
    assert summed.unique().numel() > 500
