"""What replicas can run at once, and what the gateway tells the autoscaler about it."""

import asyncio

import pytest
from aiohttp import web

from mii_gateway.activity import Activity
from mii_gateway.capacity import DEFAULT, EXPECTED_OUTPUT, Capacity, utilization

INFO = {"token_budget": 100, "kv_blocks": 100, "block_size": 64, "prefill_tokens_per_second": 500.0}
CAPACITY = Capacity(streams=100, kv_tokens=6400, prefill_tokens_per_second=500.0)


def test_capacity_is_read_from_info():
    assert Capacity.of(INFO) == CAPACITY
    assert Capacity.of({**INFO, "max_running": 8}).streams == 8
    assert Capacity.of({**INFO, "max_running": 800}).streams == 100


@pytest.mark.parametrize("info", [{}, {**INFO, "token_budget": 0}, {**INFO, "kv_blocks": "many"}])
def test_the_info_of_another_program_is_refused(info):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Capacity.of(info)


@pytest.mark.parametrize(
    ("streams", "tokens", "unread", "expected"),
    [
        (0, 0, 0, 0.0),
        (50, 640, 0, 0.5),  # streams weigh most
        (1, 3200, 0, 0.5),  # tokens held
        (1, 640, 800, 0.8),  # prompts to read: 1000 take two seconds
        (200, 0, 0, 2.0),  # more than it can run
    ],
)
def test_utilization_is_the_largest_share(streams, tokens, unread, expected):
    assert utilization(CAPACITY, streams=streams, tokens=tokens, unread=unread) == pytest.approx(expected)


def test_idle_seconds():
    now = 10.0
    activity = Activity(clock=lambda: now)
    now = 12.0
    assert activity.idle_seconds == 2.0
    with activity.request():
        now = 20.0
        assert activity.idle_seconds == 0.0
    now = 21.0
    assert activity.idle_seconds == 1.0


async def load(gateway):
    async with gateway.session.get(gateway.probe_url + "/load") as response:
        assert response.status == 200
        return await response.json()


@pytest.fixture
def held(start_replica):
    """A replica whose answers wait for an event."""

    async def start(**info):
        replica = await start_replica()
        replica.info = info or None
        released = asyncio.Event()

        async def hold(request):
            await released.wait()
            return web.json_response({"replica": replica.name})

        replica.respond = hold
        return replica, released

    return start


async def test_load_tells_of_running_requests(held, start_gateway, until):
    replica, released = await held(**INFO)
    gateway = await start_gateway(replica)
    [known] = gateway.gateway.table.all()
    await until(lambda: known.capacity == CAPACITY)
    requests = [asyncio.create_task(gateway.answer()) for _ in range(5)]
    await until(lambda: len(replica.requests) == 5)
    said = await load(gateway)
    assert (said["waiting"], said["idle_seconds"]) == (0, 0.0)
    [row] = said["replicas"]
    assert row.pop("utilization") == pytest.approx(5 * (EXPECTED_OUTPUT + 3) / 6400, rel=0.05)
    assert row == {"name": replica.name, "address": replica.name, "state": "ready", "streams": 5}
    released.set()
    await asyncio.gather(*requests)
    await until(lambda: gateway.in_flight == 0)
    said = await load(gateway)
    assert said["replicas"][0]["utilization"] == 0.0
    assert 0.0 <= said["idle_seconds"] < 5.0


async def test_a_request_that_waits_for_the_first_replica_shows_at_once(start_gateway, until):
    class Nobody:
        async def watch(self):
            yield frozenset()
            await asyncio.Event().wait()

    gateway = await start_gateway(discovery=Nobody(), wait=False)
    assert (await load(gateway))["idle_seconds"] > 0
    waiting = asyncio.create_task(gateway.answer())
    await until(lambda: gateway.gateway.lifecycle.open == 1)
    said = await load(gateway)
    assert said == {"waiting": 1, "idle_seconds": 0.0, "replicas": []}
    waiting.cancel()
    await until(lambda: gateway.gateway.lifecycle.open == 0)
    assert (await load(gateway))["waiting"] == 0


async def test_a_full_replica_leaves_requests_in_the_queue(held, start_gateway, until):
    replica, released = await held(**{**INFO, "token_budget": 2})  # holds from twice that on
    gateway = await start_gateway(replica)
    await until(lambda: gateway.gateway.table.all()[0].capacity)
    requests = [asyncio.create_task(gateway.answer(json={"n": n})) for n in range(6)]
    await until(lambda: len(replica.requests) == 4)
    said = await load(gateway)
    assert (said["waiting"], said["replicas"][0]["streams"]) == (2, 4)
    assert said["replicas"][0]["utilization"] == 2.0
    released.set()
    assert [status for status, _ in await asyncio.gather(*requests)] == [200] * 6


async def test_one_request_larger_than_the_cache_is_not_held_forever(held, start_gateway, until):
    replica, released = await held(**{**INFO, "kv_blocks": 1})
    gateway = await start_gateway(replica)
    await until(lambda: gateway.gateway.table.all()[0].capacity)
    released.set()
    assert (await gateway.answer())[0] == 200


async def test_a_replica_that_does_not_tell_counts_by_default(held, start_gateway, until):
    replica, released = await held()
    gateway = await start_gateway(replica)
    request = asyncio.create_task(gateway.answer())
    await until(lambda: replica.requests)
    [row] = (await load(gateway))["replicas"]
    assert row["utilization"] == pytest.approx(1 / DEFAULT.streams, rel=0.05)
    released.set()
    await request
