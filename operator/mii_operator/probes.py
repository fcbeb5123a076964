"""What pods tell of themselves over HTTP: a server's /v1/info, a gateway's /load."""

import logging
from collections.abc import Mapping
from typing import Any

import aiohttp

from mii_operator import constants

log = logging.getLogger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=2)


class Probes:
    def __init__(self) -> None:
        self._infos: dict[str, Mapping[str, Any]] = {}

    async def info(self, pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Of a ready server, asked for once: a loaded engine does not change. None if it does not tell."""
        uid = f"{pod['metadata']['uid']} {_restarts(pod)}"
        if uid not in self._infos:
            found = await _get(pod, constants.HTTP_PORT, "/v1/info")
            if found is None:
                return None
            self._infos[uid] = found
        return self._infos[uid]

    async def load(self, pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return await _get(pod, constants.PROBE_PORT, "/load")

    def forget_all_but(self, uids: set[str]) -> None:
        self._infos = {key: info for key, info in self._infos.items() if key.split()[0] in uids}


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
