"""How long a replica that is gone stays in the gateway's rotation, as the gateway's own /load tells."""

import asyncio
import time
from typing import Any

import aiohttp

from fake_replica import HOST
from rig import Gateway, Replica

LOOK_SECONDS = 0.002
DEADLINE = 10.0  # seconds


async def measure(front: Gateway, victim: Replica) -> list[dict[str, Any]]:
    """Nobody asks anything meanwhile: a health check has to find out. Kills the victim."""
    async with aiohttp.ClientSession() as session:
        await _until(session, front, victim, "ready")
        victim.process.kill()
        died = time.monotonic()
        await _until(session, front, victim, "down")
        return [{"measure": "failover", "idle_ms": round((time.monotonic() - died) * 1000, 1)}]


async def _until(session: aiohttp.ClientSession, front: Gateway, replica: Replica, state: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while await _state(session, front, replica) != state:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the replica was not {state} within {DEADLINE:g} s")
        await asyncio.sleep(LOOK_SECONDS)


async def _state(session: aiohttp.ClientSession, front: Gateway, replica: Replica) -> str:
    async with session.get(f"http://{HOST}:{front.probe_port}/load") as answer:
        replicas = (await answer.json())["replicas"]
    return next(str(one["state"]) for one in replicas if one["address"] == f"{HOST}:{replica.port}")
