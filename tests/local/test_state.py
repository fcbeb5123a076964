import os
import stat
import subprocess
import sys

import pytest

from mii.errors import DeploymentNotFoundError, MIIError
from mii.local import state
from mii.local.state import Record


def record(name, *, pid=None, started=None, model="org/model"):
    pid = pid or os.getpid()
    return Record(
        name=name,
        model=model,
        pid=pid,
        started=started or state.process_start(pid),
        host="127.0.0.1",
        http_port=8000,
        grpc_port=50050,
        replicas=1,
        drain_timeout=1.0,
    )


@pytest.fixture
def running():
    """Records deployments whose supervisor is this very process."""

    def make(name, **fields):
        state.prepare(name)
        state.save(record(name, **fields))

    return make


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_saved_is_found(running):
    running("a/b c")
    assert state.find("a/b c") == record("a/b c")
    assert [one.name for one in state.running()] == ["a/b c"]


def test_only_the_owner_can_read(running):
    running("mine")
    directory = state.deployment_dir("mine")
    assert mode(directory) == mode(directory.parent) == mode(state.log_dir("mine")) == 0o700
    assert mode(directory / "record.json") == mode(state.token_file("mine")) == 0o600


def test_tokens_differ(running):
    running("a")
    running("b")
    tokens = {state.token_file(name).read_text() for name in "ab"}
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 32


def test_an_unknown_name_lists_the_known(running):
    running("one")
    running("two")
    with pytest.raises(DeploymentNotFoundError, match="'three'; running now: one, two"):
        state.find("three")


def test_found_by_its_model_while_that_is_unique(running):
    running("one")
    assert state.find("org/model").name == "one"
    running("two")
    with pytest.raises(DeploymentNotFoundError, match="several deployments, name one: one, two"):
        state.find("org/model")


def test_a_dead_supervisor_is_not_believed():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    state.prepare("gone")
    state.save(record("gone", pid=ended.pid, started="1"))
    assert state.running() == []
    state.prepare("gone")


def test_a_reused_process_id_is_not_believed():
    state.prepare("reused")
    state.save(record("reused", started="another time"))
    assert state.running() == []


def test_a_zombie_is_no_process():
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    zombie.stdout.read()  # it has ended, or is about to, and nobody has waited for it
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert state.process_start(zombie.pid) is None
    finally:
        zombie.stdout.close()
        zombie.wait()


def test_a_name_can_run_once(running):
    running("taken")
    with pytest.raises(
        MIIError, match=rf"'taken' is already running \(process {os.getpid()}\): .*mii down taken"
    ):
        state.prepare("taken")


def test_forgotten_but_for_the_logs(running):
    running("past")
    (state.log_dir("past") / "gateway.log").write_text("why")
    state.forget("past")
    assert state.running() == []
    assert not state.token_file("past").exists()
    assert (state.log_dir("past") / "gateway.log").exists()


def test_a_damaged_record_is_no_deployment():
    state.prepare("broken")
    (state.deployment_dir("broken") / "record.json").write_text("{")
    assert state.running() == []


def test_where_state_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("MII_CACHE_PATH", "/explicit")
    assert str(state.state_dir()) == "/explicit"
    monkeypatch.delenv("MII_CACHE_PATH")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state.state_dir() == tmp_path / "mii"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(state.state_dir()) == "/home/somebody/.cache/mii"


@pytest.mark.parametrize("name", [".", "..", "...", "../x", "é" * 200, "\N{SNOWMAN}" * 100])
def test_any_name_has_a_directory_of_its_own(running, name):
    running("other")
    running(name)
    assert {found.name for found in state.running()} == {"other", name}
    assert state.deployment_dir(name).resolve().parent == (state.state_dir() / "deployments").resolve()
