"""The HTTP application: every route, and what stands around them."""

from aiohttp import web

from mii.server import operations, restful
from mii.server.middleware import edge
from mii.server.openai import chat, completions, models
from mii.server.openapi import document
from mii.server.routes import SERVICE, Route, json_response
from mii.server.service import Service

KEEPALIVE_SECONDS = 75.0  # an open connection may be silent so long, also before its first request


def create_app(service: Service) -> web.Application:
    """The application of one model server; it answers from the start, ready or not."""
    app = web.Application(middlewares=[edge], client_max_size=service.args.max_body_bytes)
    app[SERVICE] = service
    routes = [*completions.ROUTES, *chat.ROUTES, *models.ROUTES, *restful.ROUTES, *operations.ROUTES]
    routes.append(_openapi(routes))
    for route in routes:
        app.router.add_route(route.method, route.path, route.handler)
    return app


def create_runner(app: web.Application, *, keepalive: float = KEEPALIVE_SECONDS) -> web.AppRunner:
    """Cancels a handler when its client leaves, and closes connections that stay silent."""
    return web.AppRunner(
        app, access_log=None, handler_cancellation=True, keepalive_timeout=keepalive, shutdown_timeout=5.0
    )


def _openapi(routes: list[Route]) -> Route:
    async def openapi(_: web.Request) -> web.Response:
        return json_response(described)

    own = Route(method="GET", path="/openapi.json", handler=openapi, summary="This document", reply=dict)
    described = document([*routes, own])
    return own
