"""Active health checks: one task a replica asks GET /health/ready, and in each of its lives /v1/info once."""

import asyncio
import contextlib
import json
import logging

import aiohttp
from yarl import URL

from mii_gateway.capacity import Capacity
from mii_gateway.discovery import Discovery
from mii_gateway.replicas import Replica, ReplicaTable, State

log = logging.getLogger(__name__)

MIN_PAUSE = 0.02  # seconds; a replica that fails every request is not probed in a tight loop


class HealthChecks:
    """Keeps the table's membership (from discovery) and states (from checks) true."""

    def __init__(
        self, table: ReplicaTable, session: aiohttp.ClientSession, *, interval: float, timeout: float
    ) -> None:
        self._table = table
        self._session = session
        self._interval = interval
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def run(self, discovery: Discovery) -> None:
        """Runs until cancelled."""
        watches: dict[Replica, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group, contextlib.aclosing(discovery.watch()) as sets:
            async for addresses in sets:
                self._table.update(addresses)
                members = self._table.all()
                for replica in watches.keys() - set(members):
                    watches.pop(replica).cancel()
                for replica in members:
                    if replica not in watches:
                        watches[replica] = group.create_task(self._watch(replica))

    async def _watch(self, replica: Replica) -> None:
        described = 0  # the life in which it was asked what it can do
        while True:
            failures = replica.failures
            self._table.observe(replica, await self._probe(replica), failures)
            if replica.state is State.READY and described != replica.incarnation:
                described = replica.incarnation
                await self._describe(replica)
            await self._pause(replica)

    async def _describe(self, replica: Replica) -> None:
        """Asks /v1/info; other programs than ours have none, and then defaults count."""
        try:
            async with self._session.get(_url(replica, "/v1/info"), timeout=self._timeout) as response:
                if response.status == 200:
                    self._table.describe(replica, Capacity.of(json.loads(await response.read())))
        except (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("replica %s does not say what it can do: %r", replica.name, error)

    async def _probe(self, replica: Replica) -> State:
        url = _url(replica, "/health/ready")
        try:
            async with self._session.get(url, timeout=self._timeout, allow_redirects=False) as response:
                return State.READY if response.status == 200 else State.UNREADY
        except (aiohttp.ClientError, TimeoutError, OSError):
            return State.DOWN

    async def _pause(self, replica: Replica) -> None:
        await asyncio.sleep(MIN_PAUSE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await replica.suspected.wait()
        replica.suspected.clear()


def _url(replica: Replica, path: str) -> URL:
    return URL.build(scheme="http", host=replica.address.host, port=replica.address.http_port, path=path)
