"""Virtual token counters, and the queue that they order."""

import asyncio

import pytest

from mii_gateway.discovery import Address
from mii_gateway.fairness import TokenCounters
from mii_gateway.queue import ReplicaQueue
from mii_gateway.replicas import ReplicaTable, State
from mii_gateway.work import Work


def test_who_has_had_least_comes_first():
    counters = TokenCounters()
    counters.charge("a", prompt_tokens=100)
    counters.charge("b", output_tokens=40)
    assert counters.order(["a", "b", "c"]) == ["c", "b", "a"]
    counters.charge("b", output_tokens=20)
    assert counters.order(["b", "a"]) == ["a", "b"]


def test_equals_keep_their_order():
    assert TokenCounters().order(["b", "a", "c"]) == ["b", "a", "c"]


def test_time_away_is_no_credit():
    counters = TokenCounters()
    counters.charge("a", prompt_tokens=1000)
    counters.arrive("new", ["a"])
    counters.charge("new", prompt_tokens=1)
    assert counters.order(["new", "a"]) == ["a", "new"]
    counters.charge("a", prompt_tokens=500)
    counters.arrive("later", [])  # nobody waits: as far as who was served last
    counters.charge("later", prompt_tokens=1)
    assert counters.order(["later", "a"]) == ["a", "later"]


def test_what_was_had_is_not_forgiven():
    counters = TokenCounters()
    counters.charge("a", prompt_tokens=10)
    counters.charge("b", prompt_tokens=1000)
    counters.arrive("b", ["a"])
    assert counters.order(["b", "a"]) == ["a", "b"]


@pytest.fixture
def table():
    table = ReplicaTable()
    table.update(frozenset({Address("a", 1, 2)}))
    return table


async def test_a_tenant_with_many_requests_does_not_hold_up_another(table, until):
    queue = ReplicaQueue(table, max_requests=100, timeout=5)
    served = []

    async def wait(tenant):
        lease = await queue.lease(Work(400, b"", tenant=tenant), ())
        served.append(tenant)
        lease.release()

    tasks = [asyncio.create_task(wait("greedy")) for _ in range(8)]
    await until(lambda: len(queue) == 8)
    tasks += [asyncio.create_task(wait("modest")) for _ in range(2)]
    await until(lambda: len(queue) == 10)
    [replica] = table.all()
    table.observe(replica, State.READY, 0)
    await asyncio.gather(*tasks)
    assert served[:4] == ["greedy", "modest", "greedy", "modest"]
    assert served[4:] == ["greedy"] * 6


async def test_long_answers_count(table, until):
    queue = ReplicaQueue(table, max_requests=100, timeout=5)
    served = []

    async def wait(tenant):
        await queue.lease(Work(4, b"", tenant=tenant), ())
        served.append(tenant)

    tasks = []
    for tenant in ("talker", "listener", "talker", "listener"):
        tasks.append(asyncio.create_task(wait(tenant)))
        await until(lambda: len(queue) == len(tasks))
    queue.charge("talker", output_tokens=1000)
    [replica] = table.all()
    table.observe(replica, State.READY, 0)
    await asyncio.gather(*tasks)
    assert served == ["listener", "listener", "talker", "talker"]
