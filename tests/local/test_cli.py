import os
import subprocess
import sys

import pytest

from mii import cli
from mii.local import state
from mii.local.state import Record
from mii_spec.launch import ServerArgs


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name} " in text for name in cli.COMMANDS)


@pytest.mark.parametrize("words", [[], ["fly"], ["up"], ["down"], ["serve", "m", "--no-such-option"]])
def test_wrong_usage_is_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2


def test_an_error_is_one_line_and_1(capsys):
    assert cli.main(["down", "nobody"]) == 1
    assert capsys.readouterr().err == (
        "mii down: error: no local deployment is named 'nobody'; running now: none\n"
    )


def test_ctrl_c_is_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "running", interrupted)
    assert cli.main(["list"]) == 130


def test_ctrl_c_during_the_imports_is_130(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    assert cli.main(["list"]) == 130


def test_listing_imports_neither_torch_nor_the_server():
    code = "import sys; from mii.cli import main; main(['list']); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


def test_serve_hands_its_options_on(monkeypatch):
    seen = []
    monkeypatch.setattr("mii.server.serve.run", lambda args: seen.append(args) or 7)
    assert cli.main(["serve", "org/model", "--port", "1234", "--no-prefix-cache"]) == 7
    assert seen == [ServerArgs(model="org/model", port=1234, prefix_cache=False)]


def test_list_shows_what_runs(capsys):
    state.prepare("demo")
    state.save(
        Record(
            name="demo",
            model="org/model",
            pid=os.getpid(),
            started=state.process_start(os.getpid()),
            host="127.0.0.1",
            http_port=8000,
            grpc_port=50050,
            replicas=2,
            drain_timeout=1.0,
        )
    )
    assert cli.main(["list"]) == 0
    columns = ["demo", "org/model", "2", "http://127.0.0.1:8000", "127.0.0.1:50050", str(os.getpid())]
    assert capsys.readouterr().out == "\t".join(columns) + "\n"


def test_a_fault_of_the_file_system_is_one_line_and_1(monkeypatch, capsys, tmp_path):
    (tmp_path / "deployments").write_text("in the way")
    monkeypatch.setenv("MII_CACHE_PATH", str(tmp_path))
    monkeypatch.setattr(state, "running", lambda: state.prepare("x"))
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err.startswith("mii list: error: [Errno ")
