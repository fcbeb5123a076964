"""The applications on the gateway's two HTTP ports."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mii_gateway.errors import Refusal
from mii_gateway.gateway import Gateway
from mii_gateway.proxy import refuse

GATEWAY = web.AppKey("gateway", Gateway)


def create_app(gateway: Gateway) -> web.Application:
    """The main port: a few paths of its own, the rest are the replicas'."""
    app = web.Application(client_max_size=gateway.args.max_body_bytes)
    app[GATEWAY] = gateway
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/healthz", live)
    app.router.add_route("*", "/metrics", metrics_elsewhere)
    for path in ("/mii/{deployment:.*}", "/{path:.*}"):
        app.router.add_route("*", path, gateway.http.handle, expect_handler=gateway.http.expect)
    return app


def create_probe_app(gateway: Gateway) -> web.Application:
    """The probe port: never behind requests, never reachable from outside the pod's network."""
    app = web.Application()
    app[GATEWAY] = gateway
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", accepting)
    app.router.add_get("/load", load)
    app.router.add_get("/metrics", metrics)
    return app


async def live(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def ready(request: web.Request) -> web.Response:
    """Whether a request would be answered now."""
    return _verdict(request.app[GATEWAY], "" if request.app[GATEWAY].table.ready else "no replica is ready")


async def accepting(request: web.Request) -> web.Response:
    """Whether requests should come here: also while there is no replica, as they wait for one."""
    known = request.app[GATEWAY].table.known
    return _verdict(request.app[GATEWAY], "" if known else "the replicas are not known yet")


def _verdict(gateway: Gateway, trouble: str) -> web.Response:
    trouble = "draining" if gateway.lifecycle.draining else trouble
    return web.Response(text=trouble or "ok", status=503 if trouble else 200)


async def load(request: web.Request) -> web.Response:
    """What autoscaling looks at."""
    gateway = request.app[GATEWAY]
    replicas = [
        {
            "name": replica.address.pod or replica.name,
            "address": replica.name,
            "state": replica.state,
            "streams": replica.streams,
            "utilization": round(replica.utilization, 4),
        }
        for replica in gateway.table.all()
    ]
    idle = round(gateway.activity.idle_seconds, 3)
    return web.json_response({"waiting": len(gateway.queue), "idle_seconds": idle, "replicas": replicas})


async def metrics(request: web.Request) -> web.Response:
    exposition = request.app[GATEWAY].metrics.exposition()
    return web.Response(body=exposition, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def metrics_elsewhere(request: web.Request) -> web.Response:
    port = request.app[GATEWAY].args.probe_port
    return refuse(Refusal(404, f"metrics are on the probe port, {port}", code="not_found"))
