"""The Kubernetes API server, as a pod reaches it."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ANSWER_TIMEOUT = 10.0  # seconds for a list, and for a watch to begin
LONGEST_LINE = 2**24  # bytes of one watch event; a slice of 1000 endpoints has some 400 KB


@dataclass(frozen=True)
class ApiServer:
    url: str
    account: Path | None = None  # folder with `token` and `ca.crt`; None asks without either

    async def get(
        self, session: aiohttp.ClientSession, path: str, query: Mapping[str, str]
    ) -> dict[str, Any]:
        """One object. Raises aiohttp.ClientError, TimeoutError or OSError."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT)
        async with session.get(self.url + path, params=query, timeout=timeout, **await self._with()) as reply:
            reply.raise_for_status()
            return dict(json.loads(await reply.read()))

    async def watch(
        self, session: aiohttp.ClientSession, path: str, query: Mapping[str, str], *, seconds: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Events, until the server ends the watch after `seconds`. Raises as `get` does, and ValueError."""
        query = {**query, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        timeout = aiohttp.ClientTimeout(connect=ANSWER_TIMEOUT, sock_read=seconds + ANSWER_TIMEOUT)
        async with session.get(
            self.url + path, params=query, timeout=timeout, read_bufsize=LONGEST_LINE, **await self._with()
        ) as reply:
            reply.raise_for_status()
            async for line in reply.content:
                yield json.loads(line)

    async def _with(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._credentials)

    def _credentials(self) -> dict[str, Any]:
        """Read afresh, because tokens are replaced while the pod runs."""
        if self.account is None:
            return {}
        token = (self.account / "token").read_text().strip()
        trust = ssl.create_default_context(cafile=self.account / "ca.crt")
        return {"headers": {"Authorization": f"Bearer {token}"}, "ssl": trust}


def in_cluster(environment: Mapping[str, str], account: Path = ACCOUNT) -> ApiServer:
    """The one of this pod. Raises ValueError outside a pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ValueError("KUBERNETES_SERVICE_HOST is not set, so this is no pod")
    return ApiServer(f"https://{f'[{host}]' if ':' in host else host}:{port}", account)


def own_namespace(account: Path = ACCOUNT) -> str:
    """The pod's. Raises ValueError if it is not told."""
    try:
        return (account / "namespace").read_text().strip()
    except OSError as error:
        raise ValueError(f"the pod's namespace is not known: {error}") from error
