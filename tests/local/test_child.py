import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from mii.errors import DeploymentFailed
from mii.local.child import Child
from mii.local.health import Probe


@pytest.fixture
def supervised(quick, tmp_path):
    """A child that runs while the block does, with the events it emits."""

    @asynccontextmanager
    async def run(spec, **changes):
        timing = replace(quick, **changes)
        events = []
        async with aiohttp.ClientSession() as session:
            probe = Probe(session, spec, timeout=timing.probe_timeout)
            child = Child(spec, probe=probe, log=tmp_path / "log", timing=timing, emit=events.append)
            running = asyncio.create_task(child.run())
            try:
                yield child, events, running
            finally:
                child.kill()
                await asyncio.wait([running])

    return run


def states(events, *, without=()):
    return [event.state for event in events if event.state not in without]


def steps(events):
    """A death may be seen as unreadiness first, when a health check fails before the exit is known."""
    return states(events, without=["unready"])


async def test_becomes_ready_and_stops_when_told(fake, supervised, eventually, alive):
    async with supervised(fake.spec()) as (child, events, running):
        await eventually(lambda: states(events) == ["starting", "ready"])
        await child.stop()
        await running
    assert states(events) == ["starting", "ready", "stopping", "stopped"]
    assert fake.journal() == ["listening", "SIGTERM", "ended"]
    assert not any(map(alive, fake.pids()))


async def test_what_dies_is_restarted_with_its_reason(fake, supervised, eventually):
    async with supervised(fake.spec()) as (_, events, _):
        await eventually(lambda: "ready" in steps(events))
        fake.tell("die")
        await eventually(lambda: steps(events) == ["starting", "ready", "died", "starting", "ready"])
    died = next(e for e in events if e.state == "died").detail
    assert died.startswith("exit code 3\n  ERROR: told to die\nrestarting in ")


async def test_a_killed_process_is_restarted(fake, supervised, eventually):
    async with supervised(fake.spec()) as (_, events, _):
        await eventually(lambda: "ready" in steps(events))
        os.kill(fake.pids()[-1], signal.SIGKILL)
        await eventually(lambda: steps(events)[2:] == ["died", "starting", "ready"])
    assert "killed by SIGKILL" in next(e for e in events if e.state == "died").detail
    assert len(fake.pids()) == 2


async def test_what_is_not_alive_is_killed_and_restarted(fake, supervised, eventually):
    async with supervised(fake.spec(mode="stubborn")) as (_, events, _):
        await eventually(lambda: "ready" in states(events))
        fake.tell("sick")
        await eventually(lambda: "died" in states(events))
        (fake.directory() / "sick").unlink()
        await eventually(lambda: states(events)[-1] == "ready")
    assert states(events)[:4] == ["starting", "ready", "unready", "died"]
    assert "not alive, 3 times in a row: /health/live says 503: as told" in events[3].detail


async def test_unready_is_shown_and_nothing_is_killed(fake, supervised, eventually):
    async with supervised(fake.spec()) as (_, events, _):
        await eventually(lambda: "ready" in states(events))
        fake.tell("unready")
        await eventually(lambda: states(events)[-1] == "unready")
        (fake.directory() / "unready").unlink()
        await eventually(lambda: states(events)[-1] == "ready")
    assert len(fake.pids()) == 1


async def test_gives_up_after_three_failed_loads(fake, supervised):
    async with supervised(fake.spec(mode="broken"), load_attempts=3) as (_, events, running):
        with pytest.raises(DeploymentFailed) as failure:
            await running
    assert str(failure.value) == (
        "replica-0 cannot start: exit code 1\n  ERROR: cannot load the model\n  because of this"
    )
    assert len(fake.pids()) == 3
    assert states(events) == ["starting", "died"] * 3


async def test_never_gives_up_on_what_was_ready_once(fake, supervised, eventually):
    async with supervised(fake.spec(), load_attempts=1) as (_, events, running):
        for times in range(1, 4):
            await eventually(lambda times=times: steps(events).count("ready") == times)
            fake.tell("die")
        await eventually(lambda: steps(events).count("ready") == 4)
        assert not running.done()


async def test_what_ignores_sigterm_is_killed_after_its_grace(fake, supervised, eventually, alive):
    async with supervised(fake.spec(mode="stubborn"), drain=0.2) as (child, events, running):
        await eventually(lambda: "ready" in states(events))
        await child.stop()
        await running
    assert fake.journal() == ["listening", "SIGTERM"]
    assert not any(map(alive, fake.pids()))


async def test_too_slow_a_start_is_a_failed_load(fake, supervised):
    fake.tell("unready")
    async with supervised(fake.spec(), startup=0.3, load_attempts=1) as (_, _, running):
        with pytest.raises(DeploymentFailed, match=r"not ready 0\.3 s after its start"):
            await running


async def test_stop_while_waiting_to_restart(fake, supervised, eventually):
    long = {"backoff_first": 1000.0, "backoff_last": 1000.0}
    async with supervised(fake.spec(mode="broken"), **long) as (child, events, running):
        await eventually(lambda: "died" in states(events))
        await child.stop()
        async with asyncio.timeout(20):
            await running
    assert states(events)[-1] == "stopped"


async def test_stop_right_after_the_start_leaves_no_process(fake, supervised, alive):
    async with supervised(fake.spec()) as (child, _, running):
        await asyncio.sleep(0)  # the start is under way, the process not yet known
        await child.stop()
        await running
    assert not any(map(alive, fake.pids()))


async def test_exit_code_0_ends_only_what_may_end(fake, supervised, eventually):
    fake.tell("end", "gateway")
    async with supervised(fake.spec("gateway", may_end=True)) as (_, events, running):
        async with asyncio.timeout(20):
            await running
    assert states(events)[-1] == "stopped"
    fake.tell("end")
    async with supervised(fake.spec(), load_attempts=2) as (_, _, running):
        with pytest.raises(DeploymentFailed, match="exit code 0"):
            await running
