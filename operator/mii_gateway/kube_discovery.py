"""Replicas from the API server: the ready pods of a Service, followed by list and watch.

    list ──> watch ──> events … ──> connection lost: watch again from the last version
      ^                                    │
      └──────── version too old <──────────┘

While the API server is away, the last known set stays.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp

from mii_gateway.discovery import Address
from mii_gateway.endpoints import Source, merge, sources
from mii_gateway.kube import ApiServer

WATCH_SECONDS = 60  # after which a watch is renewed: as long as one may hang on a connection that is dead
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between attempts

log = logging.getLogger(__name__)


class Expired(Exception):  # noqa: N818 - it reads as what it is
    """The API server no longer has the version from which to go on."""


class Known:
    """What the objects of a source say, as of one version."""

    def __init__(self, source: Source, listed: dict[str, Any]) -> None:
        self.source = source
        self.version: str = listed["metadata"]["resourceVersion"]
        self._objects = {item["metadata"]["name"]: source.read(item) for item in listed.get("items") or ()}

    def apply(self, event: dict[str, Any]) -> None:
        """Raises Expired."""
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise Expired(item.get("message", "the watch failed"))
        self.version = item["metadata"]["resourceVersion"]
        if kind == "DELETED":
            self._objects.pop(item["metadata"]["name"], None)
        elif kind != "BOOKMARK":
            self._objects[item["metadata"]["name"]] = self.source.read(item)

    @property
    def addresses(self) -> frozenset[Address]:
        return merge(address for found in self._objects.values() for address in found)


class EndpointsDiscovery:
    def __init__(self, api: ApiServer, *, namespace: str, service: str) -> None:
        self._api = api
        self._sources = sources(namespace, service)
        self._where = f"{namespace}/{service}"

    async def watch(self) -> AsyncGenerator[frozenset[Address], None]:
        known: Known | None = None
        failures = 0
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    if known is None:
                        known = await self._list(session)
                        yield known.addresses
                    async with aclosing(self._follow(session, known)) as changes:
                        async for addresses in changes:
                            failures = 0
                            yield addresses
                except Expired as error:
                    log.info("listing the endpoints anew: %s", error)
                    known = None
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
                    failures += 1
                    known = None if _is_gone(error) else known
                    self._complain(error, failures)
                await asyncio.sleep(pause(failures))

    async def _list(self, session: aiohttp.ClientSession) -> Known:
        """From the best source that the API server has, which an upgrade of it may change."""
        for source in self._sources:
            try:
                return Known(source, await self._api.get(session, source.path, source.selector))
            except aiohttp.ClientResponseError as error:
                if error.status != 404:
                    raise
        raise ValueError("the API server serves neither EndpointSlices nor Endpoints")

    async def _follow(
        self, session: aiohttp.ClientSession, known: Known
    ) -> AsyncGenerator[frozenset[Address], None]:
        """One watch, from the version that is known."""
        query = {**known.source.selector, "resourceVersion": known.version}
        watch = self._api.watch(session, known.source.path, query, seconds=WATCH_SECONDS)
        async with aclosing(watch) as events:
            async for event in events:
                known.apply(event)
                yield known.addresses

    def _complain(self, error: Exception, failures: int) -> None:
        level = logging.WARNING if failures == 1 else logging.DEBUG
        log.log(level, "cannot follow %s: %r; what is known stays", self._where, error)


def pause(failures: int) -> float:
    """Seconds until the next attempt: exponential, with jitter so that gateways do not return in step."""
    return random.uniform(FIRST_PAUSE, min(FIRST_PAUSE * 2.0 ** min(failures, 16), LONGEST_PAUSE))


def _is_gone(error: Exception) -> bool:
    """Whether only a new list helps: the version is too old, or the resource no longer served."""
    return isinstance(error, aiohttp.ClientResponseError) and error.status in (404, 410)
