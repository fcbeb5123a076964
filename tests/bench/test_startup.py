"""benchmarks/startup.py, and the checkpoints of benchmarks/checkpoint.py that it starts servers on."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mii.models.builder import Builder
from mii.models.registry import describe
from mii.models.snapshot import fetch
from mii.models.weights import WeightReader, open_checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FEW = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
FEW |= {"num_key_value_heads": 2, "vocab_size": 300}


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("checkpoint")


@pytest.fixture(scope="module")
def startup(checkpoint: ModuleType) -> ModuleType:
    return importlib.import_module("startup")


@pytest.fixture(params=["mistral-7b", "mixtral-8x7b", "phi-2"])
def shape(request: pytest.FixtureRequest, checkpoint: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the family, but small."""
    name: str = request.param
    monkeypatch.setitem(checkpoint.shapes.SHAPES, name, checkpoint.shapes.SHAPES[name] | FEW)
    return name


def test_a_checkpoint_is_what_its_shape_says(shape: str, checkpoint: ModuleType, tmp_path: Path) -> None:
    """Nothing missing, nothing left over, no zero, as large as the index says."""
    checkpoint.write(shape, tmp_path, file_bytes=40_000)
    found = open_checkpoint(fetch(str(tmp_path)))
    weights = WeightReader(found, dtype=torch.bfloat16, device="cpu")
    description, names = describe(checkpoint.shapes.SHAPES[shape])
    Builder(description, names, weights, max_model_len=8, device=torch.device("cpu"), pack=False).build()
    assert all(found.tensor(name).all() for name in found.names)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == found.total_bytes
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert checkpoint.is_written(shape, tmp_path)
    assert not checkpoint.is_written("smollm2-135m", tmp_path)
    assert not checkpoint.is_written(shape, tmp_path / "nothing")


def test_a_large_file_repeats_the_block(checkpoint: ModuleType, tmp_path: Path) -> None:
    values = torch.arange(1, 9, dtype=torch.bfloat16)
    data = memoryview(values.view(torch.uint8).numpy())
    checkpoint.write_file(tmp_path / "model.safetensors", {"a": (3, 4), "b": (5,)}, data)
    found = open_checkpoint(fetch_written(tmp_path))
    assert found.tensor("a").flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4]
    assert found.tensor("b").tolist() == [5, 6, 7, 8, 1]


def fetch_written(directory: Path) -> object:
    (directory / "config.json").write_text("{}")
    return fetch(str(directory))


def test_phases_follow_one_another(startup: ModuleType) -> None:
    ends = {"server": 10.5, "weights": 13.0, "engine": 12.0, "first_token": 14.0}
    found = startup.phases(10.0, ends)
    assert found == {"server": 0.5, "engine": 1.5, "weights": 1.0, "first_token": 1.0}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"\n", False),
        (b": a comment\n", False),
        (b"data: [DONE]\n", False),
        (b'data: {"choices": []}\n', False),
        (b'data: {"choices": [{"text": ""}]}\n', False),
        (b'data: {"choices": [{"text": "a"}]}\r\n', True),
    ],
)
def test_a_first_token_is_one_with_text(startup: ModuleType, line: bytes, expected: bool) -> None:
    assert startup.has_text(line) is expected


@pytest.mark.slow
def test_a_start_is_measured_in_phases(tmp_path: Path) -> None:
    options = ["--dir", str(tmp_path / "model"), "--save", str(tmp_path / "rows"), "--runs", "2"]
    serve = "--device cpu --kv-blocks 8 --max-model-len 64"
    command = [sys.executable, str(BENCHMARKS / "startup.py"), "--shape", "smollm2-135m", *options]
    done = subprocess.run(
        [*command, "--serve", serve], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["options"] == "--device cpu --max-model-len 64 --kv-blocks 8"
        assert (row["engine"]["model"], row["engine"]["tensor_parallel"]) == ("smollm2-135m", 1)
        assert row["bytes"] > 269e6
        phases = row["phases"]
        assert list(phases) == ["server", "engine", "weights", "warm_up", "ready", "first_token"]
        assert sum(phases.values()) == pytest.approx(row["first_token_seconds"], abs=0.01)
        assert row["ready_seconds"] == pytest.approx(
            row["first_token_seconds"] - phases["first_token"], abs=0.01
        )
    [saved] = (tmp_path / "rows").glob("*-startup.jsonl")
    assert [json.loads(line) for line in saved.read_text().splitlines()] == rows
