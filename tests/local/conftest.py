import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from mii.local import ports, state
from mii.local.child import Timing
from mii.local.plan import ChildSpec, LocalPlan, Ports

PROGRAM = Path(__file__).with_name("fake_child.py")
DEADLINE = 20.0  # seconds; for a condition that comes true in well under one

QUICK = Timing(
    starting_interval=0.02,
    steady_interval=0.02,
    probe_timeout=2.0,
    startup=DEADLINE,
    drain=DEADLINE,
    stop=DEADLINE,
    backoff_first=0.01,
    backoff_last=0.05,
)


@pytest.fixture
def quick():
    return QUICK


@pytest.fixture(autouse=True)
def _own_state(tmp_path, monkeypatch):
    """No test sees, or touches, the deployments of whoever runs it."""
    monkeypatch.setenv("MII_CACHE_PATH", str(tmp_path / "state"))


@pytest.fixture
def fake(tmp_path):
    """Makes the spec of a fake program; what it does is told by files in `fake.directory(name)`."""

    class Fake:
        @staticmethod
        def directory(name="replica-0"):
            (tmp_path / name).mkdir(exist_ok=True)
            return tmp_path / name

        def spec(self, name="replica-0", *, mode="good", may_end=False):
            port = ports.free(1)[0]
            argv = [sys.executable, str(PROGRAM), mode, str(self.directory(name)), f"--port={port}"]
            return ChildSpec(name, argv, Ports(http=port, grpc=port, probe=port), may_end=may_end)

        def plan(self, *, replicas=2, mode="good", name="fake"):
            return LocalPlan(
                name=name,
                model="org/model",
                served_name="org/model",
                replicas=[self.spec(f"replica-{index}", mode=mode) for index in range(replicas)],
                gateway=self.spec("gateway", may_end=True),
                drain_timeout=DEADLINE,
                load_attempts=1,
            )

        def pids(self, name="replica-0"):
            file = self.directory(name) / "pids"
            return [int(line) for line in file.read_text().split()] if file.exists() else []

        def journal(self, name="replica-0"):
            file = self.directory(name) / "journal"
            return file.read_text().split() if file.exists() else []

        def tell(self, what, name="replica-0"):
            (self.directory(name) / what).touch()

    return Fake()


@pytest.fixture
def eventually():
    """Waits, on the event loop, until a condition holds."""

    async def wait(condition, what="the condition"):
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come true within {DEADLINE} s"
            await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def alive():
    """Whether a process runs (a zombie does not)."""

    def check(pid):
        return state.process_start(pid) is not None

    return check


@pytest.fixture
def kill_leftovers(fake):
    """After a test that starts what outlives it: nothing does."""
    names = ["replica-0", "replica-1", "gateway"]
    yield
    for pid in [pid for name in names for pid in fake.pids(name)]:
        if state.process_start(pid):
            os.kill(pid, 9)
