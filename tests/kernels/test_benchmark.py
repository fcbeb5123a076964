"""benchmarks/kernels.py: its cases are right, small and on the CPU; its timing needs a GPU."""

import json
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
    "add_bias",
    "apply_penalties",
    "count_tokens",
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    import kernels

    return kernels


def small(bench: ModuleType, dtype: torch.dtype, **more: object) -> list[object]:
    sizes = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "intermediate": 96, "vocab": 512}
    made = bench.Sizes(**{"tokens": (3, 70), "rows": 3} | sizes | more)
    return bench.token_cases(made, dtype) + bench.logits_cases(made, dtype)


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


def test_part_of_a_head_is_rotated(bench: ModuleType, kernels: Kernels) -> None:
    found = small(bench, torch.float32, rotary=0.5)
    ropes = [case for case in found if case.op == "rope_and_store_kv"]
    assert [case.shape for case in ropes] == ["3x(4+2*2)x16, 8 rotated", "70x(4+2*2)x16, 8 rotated"]
    for case in ropes:
        for ops in (kernels.run, reference):
            assert bench.error(case, ops, kernels.device) < 1e-5


def test_by_default_the_rows_are_those_that_the_report_compares(bench: ModuleType) -> None:
    anchors = json.loads((BENCHMARKS / "anchors.json").read_text())
    compared = {
        (anchor["where"]["op"], anchor["where"]["shape"])
        for anchor in anchors
        if anchor["bench"] == "kernels"
    }
    found = bench.all_cases(bench.Sizes(), torch.bfloat16)
    assert compared
    assert compared <= {(case.op, case.shape) for case in found}


def of_shape(bench: ModuleType, name: str) -> dict[str, set[str]]:
    """The shapes of each operation."""
    found: dict[str, set[str]] = {}
    for case in bench.all_cases(bench.sizes_of(bench.SHAPES[name]), torch.bfloat16):
        assert case.moved > 0
        found.setdefault(case.op, set()).add(case.shape)
    return found


def test_a_shape_gives_its_sizes(bench: ModuleType) -> None:
    llama = of_shape(bench, "llama-2-70b")
    assert "decode 64x2600 64/8x128" in llama["paged_attention"]
    assert "64x8192 by 57344x8192" in llama["linear"]
    assert "256x32000" in llama["greedy"]
    assert "moe_experts" in of_shape(bench, "mixtral-8x7b")


def test_what_a_model_lacks_is_left_out(bench: ModuleType) -> None:
    default = {case.op for case in bench.all_cases(bench.Sizes(), torch.bfloat16)}
    phi = of_shape(bench, "phi-2")
    assert default - set(phi) == {"activate_and_mul", "gated_linear", "moe_gate", "moe_experts"}
    assert "64x(32+2*32)x80, 32 rotated" in phi["rope_and_store_kv"]
    assert {"64x2560 by 10240x2560"} == {
        shape for shape in phi["linear"] if shape.startswith("64x2560 by 10")
    }
    for name in bench.SHAPES.keys() - {"phi-2", "mixtral-8x7b"}:
        assert default - set(of_shape(bench, name)) == {"moe_gate", "moe_experts"}


def test_an_unknown_shape_is_refused(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--shape", "llama-9"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "argument --shape: invalid choice: 'llama-9'" in said
    assert "phi-2" in said


@pytest.mark.parametrize("shape", [None, "phi-2"])
def test_a_row_names_the_model_that_was_asked_for(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, shape: str | None
) -> None:
    rows: list[dict[str, object]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "measure_roofline", lambda *_: {})
    monkeypatch.setattr(bench, "measure", lambda case, *_: {"op": case.op, "shape": case.shape})
    monkeypatch.setattr(bench.results, "report", lambda row, _: rows.append(row))
    named = ["--shape", shape] if shape else []
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--kernels", "torch", "--op", "greedy", *named])
    assert bench.main() == 0
    assert [row["op"] for row in rows] == ["roofline", "greedy"]
    assert [row.get("model") for row in rows] == [shape] * 2
    assert rows[1]["shape"] == ("256x51200" if shape else "256x128256")


def test_counts_not_made_are_an_error(bench: ModuleType) -> None:
    (case,) = [case for case in small(bench, torch.float32) if case.op == "count_tokens"]

    class Idle:
        @staticmethod
        def count_tokens(*_: torch.Tensor) -> None:
            pass

    assert bench.error(case, Idle, torch.device("cpu")) == 1


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
