"""benchmarks/kernels.py: its cases are right, small and on the CPU; its timing needs a GPU."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mii_kernels import reference

from .conftest import Kernels

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPS = {
    "rms_norm",
    "layer_norm",
    "activate_and_mul",
    "activate",
    "rope_and_store_kv",
    "moe_gate",
    "greedy",
    "log_probs",
    "sample",
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    import kernels

    return kernels


def small(bench: ModuleType, dtype: torch.dtype) -> list[object]:
    sizes = bench.Sizes(
        tokens=(3, 70), rows=3, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=512
    )
    return bench.cases(sizes, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cases_know_what_is_right(bench: ModuleType, kernels: Kernels, dtype: torch.dtype) -> None:
    found = small(bench, dtype)
    assert {case.op for case in found} == OPS
    for case in found:
        for ops in (kernels.run, reference):
            limit = 1e-5 if dtype == torch.float32 else 1e-2
            assert bench.error(case, ops, kernels.device) < limit, (case.op, case.shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_tensor_core_cases_know_what_is_right(
    bench: ModuleType, kernels: Kernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["tensor_core_cases"]
    monkeypatch.setattr(module, "DECODES", ((2, 130),))
    monkeypatch.setattr(module, "MIXED", ((2, 1, 130),))
    monkeypatch.setattr(module, "PROMPTS", ((1, 5), (2, 70)))
    monkeypatch.setattr(module, "EXPERT_TOKENS", (3, 70))
    sizes = bench.Sizes(hidden=64, heads=4, kv_heads=2, head_dim=64, intermediate=96, experts=3)
    found = bench.tensor_core_cases(sizes, dtype)
    assert {case.op for case in found} == {
        *("paged_attention", "linear", "linear_onto", "gated_linear", "moe_experts")
    }
    for case in found:
        for ops in (kernels.run, reference):
            assert bench.error(case, ops, kernels.device) < 1e-2, (case.op, case.shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_quantised_cases_know_what_is_right(
    bench: ModuleType, kernels: Kernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["quantised_cases"], "TOKENS", (1, 70))
    sizes = bench.Sizes(tokens=(3,), hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96)
    found = bench.quantised_cases(sizes, dtype)
    assert {case.op for case in found} == {"quantise", "quantised_linear"}
    for case in found:
        for ops in (kernels.run, reference):
            assert bench.error(case, ops, kernels.device) < 1e-2, (case.op, case.shape)


def test_a_wrong_kernel_has_an_error(bench: ModuleType) -> None:
    case = next(case for case in small(bench, torch.float32) if case.op == "activate")

    class Wrong:
        @staticmethod
        def activate(x: torch.Tensor, kind: str) -> torch.Tensor:
            return x

    assert bench.error(case, Wrong, torch.device("cpu")) > 0.1


def test_speed_counts_bytes_over_time(bench: ModuleType) -> None:
    assert bench.speed(3_000_000, 2.0, 3.0) == {"us": 2.0, "tb_s": 1.5, "share_of_copy": 0.5}


def test_arithmetic_counts_operations_over_time(bench: ModuleType) -> None:
    assert bench.arithmetic(3_000_000, 2.0, 3.0) == {"tflop_s": 1.5, "share_of_product": 0.5}
    attention = bench.tensor_core_cases(bench.Sizes(), torch.bfloat16)
    (prompt,) = [case for case in attention if case.shape.startswith("prefill 1x8192")]
    assert prompt.flops == pytest.approx(4 * 32 * 128 * 8192**2 / 2, rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    command = [sys.executable, str(BENCHMARKS / "kernels.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no CUDA device" in done.stderr


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_of_a_copy(bench: ModuleType) -> None:
    x = torch.randn(2**26, device="cuda")
    assert 50 < bench.time_us(lambda a, b: b.copy_(a), [(x, torch.empty_like(x))]) < 5000
