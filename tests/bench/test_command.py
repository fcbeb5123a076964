"""`mii bench` as a user calls it: exit codes, table, JSON lines, plot."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from mii.cli import main

QUICK = ["--clients", "1,3", "--requests", "6", "--workload", "20/8"]


def bench(*argv: str) -> int:
    return main(["bench", *argv])


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("wide")
def test_table_has_a_row_per_level_and_fits_80_columns(
    server_in_thread: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(server_in_thread.url, *QUICK) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "3"]
    assert [row[-1] for row in rows] == ["0", "0"]
    assert "…" not in out


def test_json_lines_say_everything(server_in_thread: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    assert bench(server_in_thread.url, *QUICK, "--jsonl", str(file), "--seed", "7") == 0
    assert bench(server_in_thread.url, *QUICK, "--jsonl", str(file)) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["clients"] for line in lines] == [1, 3, 1, 3]  # appended
    first = lines[0]
    assert first["server"]["device"] == "fake"
    assert first["hardware"]["cores"] >= 1
    assert first["workload"] == {
        "prompt_mean": 20,
        "new_mean": 8,
        "spread": 0.3,
        "prompts": "token ids",
        "seed": 7,
        "greedy": True,
        "exact": True,
    }
    assert first["requests"] == 6
    assert first["ttft_p50"] > 0
    assert first["date"].endswith("+00:00")


def test_jsonl_to_standard_output_prints_nothing_else(
    server_in_thread: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(server_in_thread.url, *QUICK, "--jsonl", "-") == 0
    assert [json.loads(line)["clients"] for line in capsys.readouterr().out.splitlines()] == [1, 3]


@pytest.mark.parametrize("api", ["openai", "mii"])
def test_plot_is_a_readable_png(server_in_thread: Any, tmp_path: Path, api: str) -> None:
    file = tmp_path / "curve.png"
    assert bench(server_in_thread.url, *QUICK, "--api", api, "--plot", str(file)) == 0
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = matplotlib.image.imread(file)
    assert pixels.shape[0] >= 500
    assert pixels.shape[1] >= 700
    assert 0.5 < pixels[..., :3].mean() < 0.999  # mostly white, and something is drawn


def test_errors_make_the_exit_code_1_and_are_told(
    server_in_thread: Any, script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    script.fail = lambda index: index == 2
    assert bench(server_in_thread.url, *QUICK) == 1
    assert "scripted failure" in " ".join(capsys.readouterr().err.split())


def test_warm_up_is_not_measured(server_in_thread: Any, script: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    options = ["--clients", "2", "--requests", "4", "--warmup", "3", "--jsonl", str(file)]
    assert bench(server_in_thread.url, *options) == 0
    assert len(script.requests) == 7
    assert json.loads(file.read_text())["requests"] == 4


def test_words_where_the_vocabulary_is_unknown(server_in_thread: Any, script: Any, tmp_path: Path) -> None:
    script.vocab_size = None
    assert bench(server_in_thread.url, *QUICK) == 0
    assert isinstance(script.requests[0]["prompt"], str)
    script.requests.clear()
    assert bench(server_in_thread.url, *QUICK, "--vocab", "500") == 0
    assert isinstance(script.requests[0]["prompt"], list)


def test_prompts_fit_the_models_length(server_in_thread: Any, script: Any) -> None:
    script.max_model_len = 24
    assert bench(server_in_thread.url, *QUICK) == 0
    assert all(len(body["prompt"]) + body["max_tokens"] <= 24 for body in script.requests)


def test_cached_prompts_are_pointed_out(
    server_in_thread: Any, script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    script.cached_tokens = 16
    assert bench(server_in_thread.url, *QUICK) == 0
    assert "another --seed" in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_reports_the_levels_that_have_ended(server_in_thread: Any, script: Any) -> None:
    script.endless_after = 3  # warm-up and both requests of the first level
    command = [sys.executable, "-m", "mii.cli", "bench", server_in_thread.url, "--clients", "1,2"]
    command += ["--requests", "2", "--warmup", "1", "--workload", "5/5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while script.running == 0 or len(script.requests) <= 3:
            assert time.monotonic() < deadline, "the second level did not begin"
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert [line.split()[0] for line in out.splitlines() if line.strip()[:1].isdigit()] == ["1"]


def test_nothing_listens(unused_tcp_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(f"127.0.0.1:{unused_tcp_port}") == 1
    error = capsys.readouterr().err
    assert "nothing answers" in error
    assert "mii serve" in " ".join(error.split())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workload", "5"], "PROMPT/NEW"),
        (["--workload", "5/5", "--new-tokens", "3"], "either"),
        (["--vocab", "100", "--api", "mii"], "--vocab"),
        (["--model", "x", "--api", "mii-grpc"], "--model"),
    ],
)
def test_contradicting_options_are_refused(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("http://127.0.0.1:1", *argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [["--clients", "0"], ["--clients", "1,x"], ["--duration", "-1"], ["--spread", "2"], ["--api", "x"]],
)
def test_bad_values_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        bench("http://127.0.0.1:1", *argv)
    assert exit_.value.code == 2
    assert argv[0] in capsys.readouterr().err
