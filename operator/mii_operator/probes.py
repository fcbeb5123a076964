"""What pods tell of themselves over HTTP: a server's /v1/info, a gateway's /load."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from math import inf
from typing import Any

import aiohttp

from mii_operator import constants

log = logging.getLogger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=2)


_KEPT = 4096  # answers
_RETRY = 30.0  # seconds until a server that did not answer is asked again


class Probes:
    def __init__(self) -> None:
        self._infos: OrderedDict[str, tuple[float, Mapping[str, Any] | None]] = OrderedDict()

    async def info(self, pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Of a ready server, asked for once: a loaded engine does not change. None if it does not tell."""
        key, now = f"{pod['metadata']['uid']} {_restarts(pod)}", asyncio.get_running_loop().time()
        asked_at, known = self._infos.get(key, (-inf, None))
        if known is None and now - asked_at > _RETRY:
            known = await _get(pod, constants.HTTP_PORT, "/v1/info")
            self._infos[key] = (now, known)
            if len(self._infos) > _KEPT:
                self._infos.popitem(last=False)
        return known

    async def load(self, pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return await _get(pod, constants.PROBE_PORT, "/load")


def _restarts(pod: Mapping[str, Any]) -> int:
    return sum(c.get("restartCount", 0) for c in pod["status"].get("containerStatuses", ()))


async def _get(pod: Mapping[str, Any], port: int, path: str) -> Mapping[str, Any] | None:
    address = pod.get("status", {}).get("podIP")
    if not address:
        return None
    host = f"[{address}]" if ":" in address else address
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(f"http://{host}:{port}{path}") as response,
        ):
            response.raise_for_status()
            found = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
        log.debug("%s does not tell %s: %s", pod["metadata"]["name"], path, error)
        return None
    return found if isinstance(found, dict) else None
