import asyncio

import pytest

from mii.errors import DeploymentFailed
from mii.local.deployment import Deployment


@pytest.fixture
def deploy(quick, tmp_path):
    def make(plan):
        events = []
        return Deployment(plan, logs=tmp_path, timing=quick, on_event=events.append), events

    return make


async def test_ready_when_all_are_and_ends_front_to_back(fake, deploy, alive):
    deployment, events = deploy(fake.plan())
    running = asyncio.create_task(deployment.run())
    async with asyncio.timeout(20):
        await deployment.ready.wait()
        deployment.stop()
        await running
    ends = [event.child for event in events if event.state == "stopped"]
    assert ends[0] == "gateway", "requests drain through replicas that still serve"
    assert sorted(ends[1:]) == ["replica-0", "replica-1"]
    assert not any(alive(pid) for name in ("gateway", "replica-0", "replica-1") for pid in fake.pids(name))


async def test_not_ready_while_one_is_not(fake, deploy, eventually):
    fake.tell("unready", "replica-1")
    deployment, events = deploy(fake.plan())
    running = asyncio.create_task(deployment.run())
    await eventually(lambda: [e.child for e in events if e.state == "ready"].count("replica-0"))
    await eventually(lambda: [e.child for e in events if e.state == "ready"].count("gateway"))
    assert not deployment.ready.is_set()
    (fake.directory("replica-1") / "unready").unlink()
    await eventually(deployment.ready.is_set)
    deployment.stop()
    await running


async def test_a_second_stop_does_not_wait(fake, deploy, eventually, alive):
    deployment, _ = deploy(fake.plan(mode="stubborn"))
    running = asyncio.create_task(deployment.run())
    await eventually(deployment.ready.is_set)
    deployment.stop()
    await eventually(lambda: "SIGTERM" in fake.journal("replica-0"))
    deployment.stop()
    async with asyncio.timeout(10):
        await running
    assert not any(map(alive, fake.pids()))


async def test_one_replica_that_cannot_load_ends_all(fake, deploy, alive):
    plan = fake.plan(replicas=2)
    plan.replicas[1] = fake.spec("replica-1", mode="broken")
    deployment, _ = deploy(plan)
    with pytest.raises(DeploymentFailed, match="replica-1 cannot start: exit code 1"):
        await deployment.run()
    assert not any(alive(pid) for name in ("gateway", "replica-0", "replica-1") for pid in fake.pids(name))


async def test_the_gateways_own_end_ends_all(fake, deploy, eventually, alive):
    deployment, _ = deploy(fake.plan())
    running = asyncio.create_task(deployment.run())
    await eventually(deployment.ready.is_set)
    fake.tell("end", "gateway")
    async with asyncio.timeout(20):
        await running
    assert not any(alive(pid) for name in ("gateway", "replica-0", "replica-1") for pid in fake.pids(name))
