"""The circuit breaker, alone and in rotation."""

import pytest
from aiohttp import web

from mii_gateway import breaker as module
from mii_gateway.breaker import BREAKS, FIRST_PAUSE, LONGEST_PAUSE, Breaker


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def breaker(clock):
    return Breaker(clock=lambda: clock[0])


def break_(breaker, times):
    for _ in range(times):
        breaker.broke()


def test_opens_after_so_many_in_a_row(breaker):
    break_(breaker, BREAKS - 1)
    assert breaker.admits(99)
    breaker.worked()
    break_(breaker, BREAKS - 1)
    assert breaker.admits(99)
    breaker.broke()
    assert not breaker.admits(0)


def test_half_open_admits_one_and_closes_when_it_worked(breaker, clock):
    break_(breaker, BREAKS)
    clock[0] = FIRST_PAUSE
    assert breaker.admits(0)
    assert not breaker.admits(1)
    breaker.worked()
    assert breaker.admits(1)


def test_opens_for_longer_each_time_up_to_a_limit(breaker, clock):
    break_(breaker, BREAKS + 1)
    clock[0] = FIRST_PAUSE
    assert not breaker.admits(0)
    clock[0] = 2 * FIRST_PAUSE
    assert breaker.admits(0)
    break_(breaker, 100)
    clock[0] += LONGEST_PAUSE
    assert breaker.admits(0)


async def test_a_replica_that_is_well_but_breaks_every_request_gets_few(
    start_replica, start_gateway, until, monkeypatch
):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.3)
    bad, good = await start_replica(), await start_replica()
    gateway = await start_gateway(bad, good, health_interval=0.02)
    answering = bad.respond

    async def reset(request):
        request.transport.abort()
        return web.Response()

    bad.respond = reset
    [seen] = [r for r in gateway.gateway.table.all() if r.name == bad.name]
    for number in range(200):
        assert await gateway.answer(json={"n": number}) == (200, {"replica": good.name})
        await until(lambda: seen.state == "ready")
    assert BREAKS <= len(bad.requests) <= BREAKS + 4
    bad.respond = answering
    await until(lambda: seen.breaker.admits(0))
    before = len(bad.requests)
    for number in range(50):
        assert (await gateway.answer(json={"n": number}))[0] == 200
    assert len(bad.requests) > before + 5
