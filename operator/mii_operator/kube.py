"""The API server over HTTP, with kopf's credentials. The only module that knows paths and media types."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import aiohttp
import kopf

Object = dict[str, Any]
MANAGER = "mii-operator"
AUTOSCALER = "mii-operator-autoscaler"  # owns spec.replicas alone, while autoscaling is set

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)
_CONNECTIONS = 32


class ApiError(Exception):
    """The API server's refusal, in its words."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Kube:
    """One connection pool. `observe` is called with verb, kind and HTTP status of every request."""

    def __init__(self, observe: Callable[[str, str, int], None] = lambda *_: None) -> None:
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None
        self._server = ""

    async def __aenter__(self) -> Self:
        await self._login()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def get(self, api_version: str, kind: str, namespace: str | None, name: str) -> Object | None:
        """None if there is none."""
        try:
            return await self._json("GET", path(api_version, kind, namespace, name), kind, verb="get")
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def list(
        self, api_version: str, kind: str, namespace: str | None = None, *, labels: str = "", limit: int = 0
    ) -> list[Object]:
        """With apiVersion and kind in every item, which the server leaves out. Raises ApiError."""
        params = {"labelSelector": labels, "limit": str(limit or "")}
        given = {name: value for name, value in params.items() if value}
        target = path(api_version, kind, namespace)
        found = json.loads(await self._send("GET", target, kind, "list", None, given))
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found["items"]]

    async def apply(self, item: Object, *, manager: str = MANAGER, dry_run: bool = False) -> Object:
        """Server-side apply; takes over fields that another manager has set. The object as it is stored."""
        options = {"dryRun": "All"} if dry_run else {}
        verb = "dry-run" if dry_run else "apply"
        return await self._json(
            "PATCH",
            _path_of(item),
            item["kind"],
            verb=verb,
            body=(_APPLY, item),
            fieldManager=manager,
            force="true",
            **options,
        )

    async def create(self, item: Object) -> Object:
        target = path(item["apiVersion"], item["kind"], item["metadata"]["namespace"])
        return await self._json("POST", target, item["kind"], verb="create", body=(_JSON, item))

    async def replace(self, item: Object) -> Object:
        """Raises ApiError 409 if it has changed since it was read."""
        return await self._json("PUT", _path_of(item), item["kind"], verb="update", body=(_JSON, item))

    async def patch_status(self, item: Object, status: Object) -> Object:
        """Merges `status`, in which None removes a field, into the object's."""
        target = f"{_path_of(item)}/status"
        return await self._json(
            "PATCH", target, item["kind"], verb="status", body=(_MERGE, {"status": status})
        )

    async def delete(self, item: Object) -> None:
        """This very object, not another of its name; what it owns goes after it."""
        uid = {"uid": item["metadata"]["uid"]}
        options = {"propagationPolicy": "Background", "preconditions": uid}
        try:
            await self._json("DELETE", _path_of(item), item["kind"], verb="delete", body=(_JSON, options))
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def kinds(self, *groups: str) -> set[str]:
        """What these groups offer, as group/version/Kind (`policy/v1/PodDisruptionBudget`)."""
        found = await self._json("GET", "/apis", "APIGroup", verb="get")
        versions = [v["groupVersion"] for g in found["groups"] if g["name"] in groups for v in g["versions"]]
        lists = [await self._json("GET", f"/apis/{v}", "APIResource", verb="get") for v in versions]
        return {f"{item['groupVersion']}/{r['kind']}" for item in lists for r in item["resources"]}

    async def last_log_line(self, namespace: str, pod: str) -> str:
        target = f"{path('v1', 'Pod', namespace, pod)}/log"
        return (await self._send("GET", target, "Pod", "log", None, {"tailLines": "1"})).decode()

    async def _json(
        self,
        method: str,
        target: str,
        kind: str,
        *,
        verb: str,
        body: tuple[str, Object] | None = None,
        **params: str,
    ) -> Object:
        reply: Object = json.loads(await self._send(method, target, kind, verb, body, params))
        return reply

    async def _send(
        self,
        method: str,
        target: str,
        kind: str,
        verb: str,
        body: tuple[str, Object] | None,
        params: Mapping[str, str],
    ) -> bytes:
        """Credentials that have expired are read anew, once."""
        code, content = await self._attempt(method, target, body, params)
        if code == 401:
            await self._login()
            code, content = await self._attempt(method, target, body, params)
        self._observe(verb, kind, code)
        if code >= 400:
            raise _error(code, content)
        return content

    async def _attempt(
        self, method: str, target: str, body: tuple[str, Object] | None, params: Mapping[str, str]
    ) -> tuple[int, bytes]:
        assert self._session
        data, headers = (json.dumps(body[1]), {"Content-Type": body[0]}) if body else (None, {})
        request = self._session.request(
            method, self._server + target, data=data, headers=headers, params=params
        )
        async with request as response:
            return response.status, await response.read()

    async def _login(self) -> None:
        stale = self._session
        found = await asyncio.to_thread(login)
        self._server = found.server.rstrip("/")
        tls = await asyncio.to_thread(found.as_ssl_context)
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=tls)
        headers = found.as_http_headers()
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=_TIMEOUT)
        if stale:
            await stale.close()


_JSON = "application/json"


def login(**_: Any) -> kopf.ConnectionInfo:
    """$KUBECONFIG if set, else the pod's ServiceAccount, else ~/.kube/config. Raises kopf.LoginError."""
    settings = kopf.OperatorSettings()
    ways = [kopf.login_with_service_account, kopf.login_with_kubeconfig]
    for way in reversed(ways) if os.environ.get("KUBECONFIG") else ways:
        if found := way(settings=settings):
            return found
    raise kopf.LoginError("no cluster: neither KUBECONFIG nor a ServiceAccount nor ~/.kube/config is there")


def path(api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{plural(kind)}" + (f"/{name}" if name else "")


def plural(kind: str) -> str:
    """As the API server spells the kinds that are used here."""
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"


def _path_of(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return path(item["apiVersion"], item["kind"], metadata.get("namespace"), metadata["name"])


def _error(code: int, content: bytes) -> ApiError:
    try:
        status = json.loads(content)
        return ApiError(code, status.get("reason", ""), status.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(code, "", content.decode(errors="replace")[:500])
