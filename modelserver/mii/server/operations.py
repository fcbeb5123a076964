"""What runs the server looks at: health, metrics, and what the loaded engine is."""

from typing import Any

import msgspec
from aiohttp import web

from mii.core import EngineInfo
from mii.server.routes import SERVICE, Route, json_response
from mii.server.service import Service


class ServerInfo(EngineInfo, kw_only=True, tag=False):
    """The engine, and the names it is served under."""

    served_model_name: str
    deployment_name: str


async def live(request: web.Request) -> web.Response:
    """Fails once the engine has died or stalled: the process is worth restarting."""
    health = request.app[SERVICE].health
    return _verdict(health.alive, health.reason)


async def ready(request: web.Request) -> web.Response:
    """Fails while the model loads, while the server drains, and when the engine is dead."""
    service = request.app[SERVICE]
    return _verdict(service.ready, _why_not(service))


async def healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def metrics(request: web.Request) -> web.Response:
    body, content_type = request.app[SERVICE].metrics.render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def info(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    engine = msgspec.structs.asdict(service.backend().info)
    return json_response(
        ServerInfo(**engine, served_model_name=service.model_name, deployment_name=service.deployment_name)
    )


def _why_not(service: Service) -> str:
    health = service.health
    return service.phase.value if health.alive else health.reason


def _verdict(good: bool, reason: str) -> web.Response:
    status: dict[str, Any] = {"status": "ok"} if good else {"status": "failing", "reason": reason}
    return web.json_response(status, status=200 if good else 503)


ROUTES = [
    Route(method="GET", path="/health/live", handler=live, summary="Is the process worth keeping"),
    Route(method="GET", path="/health/ready", handler=ready, summary="Can it take requests"),
    Route(method="GET", path="/healthz", handler=healthz, summary="Does it answer (DeepSpeed-MII)"),
    Route(method="GET", path="/metrics", handler=metrics, summary="Prometheus metrics"),
    Route(method="GET", path="/v1/info", handler=info, summary="The engine and its limits", reply=ServerInfo),
]
