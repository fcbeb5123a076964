"""Waiting for a replica, and what is said when there is none."""

import asyncio

import pytest

from mii_gateway.discovery import Address
from mii_gateway.errors import Refusal
from mii_gateway.queue import ReplicaQueue
from mii_gateway.replicas import ReplicaTable, State
from mii_gateway.work import Work


@pytest.fixture
async def loading(start_replica):
    replica = await start_replica()
    replica.ready = False
    return replica


async def test_requests_wait_for_a_replica_to_become_ready(loading, start_gateway, until):
    gateway = await start_gateway(loading)
    waiting = [asyncio.create_task(gateway.answer()) for _ in range(5)]
    await until(lambda: gateway.gateway.lifecycle.open == 5)
    assert await gateway.metric("mii_gateway_queue_depth") == 5
    assert not loading.requests
    loading.ready = True
    assert await asyncio.gather(*waiting) == [(200, {"replica": loading.name})] * 5
    assert await gateway.metric("mii_gateway_queue_depth") == 0
    assert await gateway.metric("mii_gateway_queue_wait_seconds_sum") > 0


async def test_waiting_in_vain_is_503(loading, start_gateway):
    gateway = await start_gateway(loading, queue_timeout=0.1)
    async with gateway.post() as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        error = (await response.json())["error"]
    assert error["code"] == "no_replica"
    assert error["type"] == "server_error"
    assert "0.1 seconds" in error["message"]


async def test_more_than_may_wait_is_429(loading, start_gateway, until):
    gateway = await start_gateway(loading, queue_max_requests=3)
    waiting = [asyncio.create_task(gateway.answer()) for _ in range(3)]
    await until(lambda: gateway.gateway.lifecycle.open == 3)
    async with gateway.post() as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) > 0
        assert (await response.json())["error"]["type"] == "rate_limit_error"
    loading.ready = True
    assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * 3


async def test_a_client_that_leaves_makes_room(loading, start_gateway, until):
    gateway = await start_gateway(loading, queue_max_requests=1)
    impatient = asyncio.create_task(gateway.answer())
    await until(lambda: gateway.gateway.lifecycle.open == 1)
    impatient.cancel()
    await until(lambda: gateway.gateway.lifecycle.open == 0)
    patient = asyncio.create_task(gateway.answer())
    await until(lambda: gateway.gateway.lifecycle.open == 1)
    loading.ready = True
    assert (await patient)[0] == 200
    assert len(loading.requests) == 1


@pytest.fixture
def table():
    table = ReplicaTable()
    table.update(frozenset({Address("a", 1, 2), Address("b", 1, 2)}))
    return table


def become(table, state):
    for replica in table.all():
        table.observe(replica, state, replica.failures)


async def test_first_come_first_served_and_spread_by_load(table, until):
    queue = ReplicaQueue(table, max_requests=10, timeout=5)
    served = []

    async def wait(number):
        lease = await queue.lease(Work.of(b"same"), ())
        served.append((number, lease.replica.name))

    tasks = [asyncio.create_task(wait(number)) for number in range(6)]
    await until(lambda: len(queue) == 6)
    become(table, State.READY)
    await asyncio.gather(*tasks)
    assert [number for number, _ in served] == list(range(6))
    assert [replica.streams for replica in table.all()] == [6, 0]  # the first was ready alone


async def test_bytes_are_bounded(table, until):
    queue = ReplicaQueue(table, max_requests=10, timeout=5, max_bytes=100)
    waiting = asyncio.create_task(queue.lease(Work.of(b"x" * 60), ()))
    await until(lambda: len(queue) == 1)
    with pytest.raises(Refusal, match="60 bytes") as refusal:
        await queue.lease(Work.of(b"x" * 41), ())
    assert refusal.value.status == 429
    become(table, State.READY)
    (await waiting).release()
    become(table, State.DOWN)
    second = asyncio.create_task(queue.lease(Work.of(b"x" * 100), ()))
    await until(lambda: len(queue) == 1)
    second.cancel()


async def test_a_lease_given_to_one_who_leaves_is_returned(table, until):
    queue = ReplicaQueue(table, max_requests=10, timeout=5)
    leaving = asyncio.create_task(queue.lease(Work.of(b""), ()))
    await until(lambda: len(queue) == 1)
    become(table, State.READY)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert sum(replica.streams for replica in table.all()) == 0
