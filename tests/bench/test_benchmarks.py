"""The scripts in benchmarks/ that need no checkpoint, run small."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_gateway_measures_what_it_says() -> None:
    options = ["--rate", "20", "--seconds", "1", "--tokens", "5", "--interval", "0.01", "--connections", "20"]
    done = run("gateway.py", *options)
    assert done.returncode == 0, done.stderr
    lines = {line["measure"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {"added_latency", "idle_connection_memory", "idle_stream_memory"}
    latency = lines["added_latency"]
    assert (latency["requests"], latency["errors"]) == (20, 0)
    assert 0 < latency["direct"]["token_p50_ms"] < latency["gateway"]["token_p50_ms"] < 1000
    added = latency["gateway"]["first_token_p50_ms"] - latency["direct"]["first_token_p50_ms"]
    assert latency["added"]["first_token_p50_ms"] == pytest.approx(added, abs=0.002)
    assert lines["idle_stream_memory"]["connections"] == 20
    assert all(line["hardware"]["cores"] >= 1 for line in lines.values())


def test_gateway_refuses_a_rate_of_zero() -> None:
    done = run("gateway.py", "--rate", "0")
    assert done.returncode == 2
    assert "more than 0" in done.stderr


def test_clients_runs_every_fastgen_workload(server_in_thread: Any, tmp_path: Path) -> None:
    lines, plot = tmp_path / "out.jsonl", tmp_path / "curve.png"
    options = [
        "--clients",
        "1",
        "--requests",
        "1",
        "--warmup",
        "0",
        "--jsonl",
        str(lines),
        "--plot",
        str(plot),
    ]
    done = run("clients.py", server_in_thread.url, *options)
    assert done.returncode == 0, done.stderr
    workloads = [json.loads(line)["workload"] for line in lines.read_text().splitlines()]
    means = [(workload["prompt_mean"], workload["new_mean"]) for workload in workloads]
    assert means == [(1200, 60), (1200, 128), (2600, 60), (2600, 128), (500, 150), (500, 500)]
    assert (tmp_path / "curve-500-150.png").exists()


def test_clients_refuses_other_lengths() -> None:
    done = run("clients.py", "http://127.0.0.1:1", "--workload", "5/5")
    assert done.returncode == 2
    assert "fixed" in done.stderr


@pytest.mark.slow
def test_clients_serves_a_shape_of_its_own() -> None:
    options = ["--shape", "smollm2-135m", "--serve", "--device cpu --kv-blocks 40", "--workload", "1200/60"]
    done = run("clients.py", *options, "--clients", "1", "--requests", "1", "--warmup", "0", "--jsonl", "-")
    assert done.returncode == 0, done.stderr
    [line] = map(json.loads, done.stdout.splitlines())
    assert (line["requests"], line["errors"], line["model"]) == (1, 0, "smollm2-135m")


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["greedy", "mii"])
def test_offline_runs_a_closed_loop_of_a_shape(tmp_path: Path, sampling: str) -> None:
    lengths = ["--requests", "3", "--prompt-tokens", "8", "--new-tokens", "3", "--clients", "2"]
    where = ["--device", "cpu", "--kv-blocks", "16", "--save", str(tmp_path)]
    done = run("offline.py", "--shape", "smollm2-135m", *lengths, *where, "--sampling", sampling)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["clients"], line["requests"], line["new_tokens"]) == (2, 3, 9)
    assert 0 < line["ttft_p50"] < line["latency_p50"]
    [saved] = tmp_path.glob("*-offline.jsonl")
    assert json.loads(saved.read_text()) == line
