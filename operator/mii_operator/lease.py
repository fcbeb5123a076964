"""Leader election over a coordination.k8s.io Lease: of several operators one works, the others wait warm."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import aiohttp

from mii_operator.kube import ApiError, Kube, Object

log = logging.getLogger(__name__)

DURATION = 15.0  # seconds that a leader is believed without a sign
RENEW_WITHIN = 10.0  # seconds after which a leader that cannot renew gives up, before others stop believing
PERIOD = 2.0
_API = "coordination.k8s.io/v1"


class Lost(Exception):  # noqa: N818
    """Somebody else leads now, or may soon."""


class Lease:
    """Time is measured by this process's own clock since it saw the holder renew: clocks may differ."""

    def __init__(self, kube: Kube, *, namespace: str, name: str, identity: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[Any, float] = (None, 0.0)  # the holder's last sign, and when it was seen

    async def acquire(self) -> None:
        while not await self._attempt():  # noqa: ASYNC110 - what is waited for is on the API server
            await asyncio.sleep(PERIOD)
        log.info("leading as %s", self._identity)

    async def hold(self) -> None:
        """Renews for ever. Raises Lost when it cannot."""
        renewed = _clock()
        while _clock() - renewed < RENEW_WITHIN:
            await asyncio.sleep(PERIOD)
            before = _clock()
            held = await self._attempt()
            if held:
                renewed = before
            elif held is not None:
                raise Lost("another operator leads")
        raise Lost(f"the lease could not be renewed for {RENEW_WITHIN:g} s")

    async def release(self) -> None:
        """So that a successor need not wait."""
        try:
            found = await self._get()
            if found and found["spec"].get("holderIdentity") == self._identity:
                found["spec"]["holderIdentity"] = ""
                await self._kube.replace(found)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            log.info("the lease was not released: %s", error)

    async def _attempt(self) -> bool | None:
        """Whether the lease is ours now; None if the API server did not say."""
        try:
            async with asyncio.timeout(RENEW_WITHIN / 2):
                return await self._take()
        except ApiError as error:
            if error.code == 409:
                return None  # somebody was faster: the next look tells who
            log.warning("lease: %s", error)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("lease: %s: %s", type(error).__name__, error)
        return None

    async def _take(self) -> bool:
        found = await self._get()
        if found is None:
            await self._kube.create(self._mine({"metadata": self._metadata()}))
            return True
        if not self._free(found["spec"]):
            return False
        await self._kube.replace(self._mine(found))
        return True

    def _free(self, spec: Object) -> bool:
        """Ours, nobody's, or of a holder who gave no sign while we looked."""
        holder, sign = spec.get("holderIdentity"), (spec.get("holderIdentity"), spec.get("renewTime"))
        if sign != self._seen[0]:
            self._seen = (sign, _clock())
        silent = _clock() - self._seen[1]
        return holder in (None, "", self._identity) or silent > (spec.get("leaseDurationSeconds") or 0)

    def _mine(self, found: Object) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = found.get("spec", {})
        same = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": old.get("acquireTime") if same else now,
            "renewTime": now,
            "leaseTransitions": (old.get("leaseTransitions") or 0) + (not same),
        }
        return {"apiVersion": _API, "kind": "Lease", "metadata": found["metadata"], "spec": spec}

    async def _get(self) -> Object | None:
        return await self._kube.get(_API, "Lease", self._namespace, self._name)

    def _metadata(self) -> Object:
        return {"name": self._name, "namespace": self._namespace}


def _clock() -> float:
    return asyncio.get_running_loop().time()
