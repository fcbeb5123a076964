import io
import threading

import pytest
from rich.console import Console

from mii.local.child import Event
from mii.local.follow import following
from mii.local.view import TerminalView


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def text(console):
    return console.file.getvalue()


def test_lines_where_there_is_no_terminal(console, fake, tmp_path):
    with TerminalView(console, fake.plan(), logs=tmp_path) as view:
        view.event(Event("replica-0", "starting"))
        view.event(Event("replica-0", "died", "exit code 1\n  ERROR: [no] tensor"))
        view.event(Event("replica-0", "ready"))
    assert text(console).splitlines() == [
        "replica-0 starting",
        "replica-0 died: exit code 1",
        "  ERROR: [no] tensor",
        "replica-0 ready",
    ]


def test_when_ready_it_says_where(console, fake, tmp_path):
    plan = fake.plan(name="org/model-mii-deployment")
    with TerminalView(console, plan, logs=tmp_path) as view:
        view.ready()
    shown = text(console)
    assert "org/model-mii-deployment is ready after" in shown
    assert f"HTTP  {plan.http_url}\n" in shown
    assert f"gRPC  {plan.grpc_address}\n" in shown
    assert f"curl {plan.http_url}/v1/chat/completions" in shown
    assert f"curl {plan.http_url}/mii/org%2Fmodel-mii-deployment" in shown


def test_a_terminal_gets_a_table_with_the_last_line_of_what_loads(fake, tmp_path):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    (tmp_path / "replica-0.log").write_text(f"loading weights 10%\nloading weights 42% {'long ' * 100}\n")
    with TerminalView(console, fake.plan(), logs=tmp_path) as view:
        view.event(Event("replica-0", "starting"))
        view.event(Event("replica-1", "ready"))
    shown = text(console)
    assert "loading weights 42%" in shown
    assert all(name in shown for name in ("gateway", "replica-0", "replica-1"))


def test_following_logs_with_whole_lines_only(tmp_path):
    lines, two = [], threading.Event()

    def write(name, line):
        lines.append((name, line))
        if len(lines) == 2:
            two.set()

    log = tmp_path / "a.log"
    with following({"a": log, "b": tmp_path / "never.log"}, write):
        with open(log, "w") as file:
            file.write("one\ntw")
            file.flush()
            file.write("o\n")
        assert two.wait(20)
        with open(log, "a") as file:
            file.write("three\nhalf")
    assert lines == [("a", "one"), ("a", "two"), ("a", "three")]
