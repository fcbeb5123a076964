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
    options = ["--rate", "20", "--seconds", "1", "--tokens", "5", "--interval", "0.01", "--engines", "0", "2"]
    done = run("gateway.py", *options, "--connections", "2000")
    assert done.returncode == 0, done.stderr
    floor, *latencies, connections, streams, failover = map(json.loads, done.stdout.splitlines())
    assert floor["send_us"] > 0
    assert floor["receive_us"] > 0
    assert [(line["measure"], line["engines"]) for line in latencies] == [
        ("added_latency", n) for n in (0, 2)
    ]
    for line in latencies:
        assert line["requests"] >= 20
        assert line["errors"] == 0
        for name, direct in line["direct"].items():
            assert 0 < direct < 10_000
            assert line["added"][name] == pytest.approx(line["gateway"][name] - direct, abs=0.002)
    for line in (connections, streams):  # the aim: less than 100 MB for 2,000 that are idle
        assert line["connections"] == 2000
        assert 0 < (line["rss_during_mib"] - line["rss_before_mib"]) * 2**20 < 100e6
    assert 0 < failover["idle_ms"] < 10_000


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
    assert (line["engine"]["model"], line["options"]) == ("smollm2-135m", "--device cpu --kv-blocks 16")
    assert line["startup_seconds"] > line["engine"]["load_seconds"]
    assert 0 < line["ttft_p50"] < line["latency_p50"]
    [saved] = tmp_path.glob("*-offline.jsonl")
    assert json.loads(saved.read_text()) == line


@pytest.mark.slow
def test_quantization_compares_a_shape_with_itself(tmp_path: Path) -> None:
    lengths = ["--windows", "2", "--window", "9", "--new-tokens", "2", "--kv-blocks", "8"]
    done = run(
        "quantization.py", "--shape", "smollm2-135m", "--device", "cpu", *lengths, "--save", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["quantization"], line["windows"], line["tokens"]) == ("fp8", 2, 16)
    assert 0 < line["logprob_difference"] < 1
    assert line["perplexity"]["fp8"] == pytest.approx(line["perplexity"]["none"], rel=0.3)
    assert 0 <= line["same_greedy"] <= 1
    [saved] = tmp_path.glob("*-quantization.jsonl")
    assert json.loads(saved.read_text()) == line


@pytest.mark.slow
def test_ablation_without_a_gpu_leaves_out_the_overlap_alone(tmp_path: Path) -> None:
    lengths = ["--requests", "3", "--prompt-tokens", "8", "--new-tokens", "3", "--stream-tokens", "3"]
    where = ["--device", "cpu", "--kv-blocks", "16", "--limit", "1000", "--save", str(tmp_path)]
    done = run("ablation.py", "--shape", "smollm2-135m", *lengths, *where)
    assert done.returncode == 0, done.stderr
    assert "no rows of kernels or graphs" in done.stderr
    whole, without = lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["off"], line["overlap"]) for line in lines] == [(None, True), ("overlap", False)]
    assert (whole["of_all"], whole["stream"]["of_all"]) == (1, 1)
    assert without["of_all"] == pytest.approx(whole["seconds"] / without["seconds"])
    for line in lines:
        assert (line["same_first"], line["same_tokens"], line["engine"]["model"]) == (1, 1, "smollm2-135m")
        assert (line["workload"], line["stream"]["workload"], line["cuda_graphs"]) == ("8/3", "8/3", False)
    [saved] = tmp_path.glob("*-ablation.jsonl")
    assert [json.loads(line) for line in saved.read_text().splitlines()] == lines


def test_ablation_breaks_off_what_is_too_slow() -> None:
    lengths = ["--requests", "2", "--prompt-tokens", "8", "--new-tokens", "3", "--stream-tokens", "3"]
    where = ["--device", "cpu", "--kv-blocks", "16", "--limit", "0.001"]
    done = run("ablation.py", "--shape", "smollm2-135m", *lengths, *where)
    assert done.returncode == 0, done.stderr
    whole, without = map(json.loads, done.stdout.splitlines())
    assert without["cut_after"] == pytest.approx(0.001 * whole["seconds"])
    assert [without["of_all_below"], without["stream"]["of_all_below"]] == pytest.approx([1000, 1000])
    assert "seconds" not in without | without["stream"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "0"], "more than 0"),
        (["--stream-tokens", "1"], "at least 2"),
        (["--tensor-parallel", "2"], "one GPU"),
    ],
)
def test_ablation_refuses_what_it_cannot_measure(options: list[str], said: str) -> None:
    done = run("ablation.py", "--shape", "smollm2-135m", *options)
    assert done.returncode == 2
    assert said in done.stderr
