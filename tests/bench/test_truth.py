"""benchmarks/fidelity.py and trained.py: what is held against transformers, and a checkpoint to hold."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fidelity() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("fidelity")


def run(script: str, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_a_divergence_has_a_rank_and_a_gap(fidelity: ModuleType) -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 1.0], [5.0, 5.0, 0.0]])
    found = fidelity.divergences(7, [1, 1, 1], logits)
    assert found == [fidelity.Divergence(request=7, step=0, rank=2, gap=2.0)]  # a tie is none


@pytest.mark.parametrize(("noise", "unexplained"), [(0.4, 0), (0.1, 1)])
def test_six_times_the_noise_explains_a_gap(fidelity: ModuleType, noise: float, unexplained: int) -> None:
    exact = [torch.tensor([[2.0, 0.0], [0.0, 2.0]])]
    result = fidelity.compare([[1, 1]], exact, [exact[0] + noise])
    assert result["noise"] == pytest.approx(noise)
    assert (result["steps"], result["same"], result["largest_gap"]) == (2, 0.5, 2.0)
    assert result["unexplained"] == unexplained


def test_float32_has_noise_of_its_own(fidelity: ModuleType) -> None:
    assert fidelity.noise_dtype("float32") == "float64"
    assert fidelity.noise_dtype("bfloat16") == "bfloat16"


@pytest.mark.slow
def test_a_trained_model_is_followed_by_the_engine(tmp_path: Path) -> None:
    made = run("trained.py", str(tmp_path / "tiny"), "--seconds", "2", "--size", "tiny", "--text", __file__)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["steps"] > 0
    where = ["--device", "cpu", "--kv-blocks", "32", "--save", str(tmp_path)]
    done = run("fidelity.py", str(tmp_path / "tiny"), *where, "--requests", "3", "--new-tokens", "4")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["steps"], line["same"]) == (12, 1.0)
    assert 0 < line["noise"] < 1e-4
    [saved] = tmp_path.glob("*-fidelity.jsonl")
    assert json.loads(saved.read_text()) == line


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("def")
    done = run(
        "trained.py", str(tmp_path), "--seconds", "1", "--size", "tiny", "--text", str(tmp_path / "short")
    )
    assert done.returncode == 1
    assert "too few" in done.stderr
