"""What a route is: the one table entry from which both the application and its OpenAPI document are made."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web
from pydantic import BaseModel

from mii.server.service import Service

SERVICE = web.AppKey("service", Service)
REQUEST_ID = web.RequestKey("request_id", str)


def json_response(reply: Any) -> web.Response:
    """`reply`, anything msgspec can encode."""
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


@dataclass(frozen=True, kw_only=True)
class Route:
    method: str
    path: str  # aiohttp's syntax
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    request: type[BaseModel] | None = None  # JSON body
    reply: Any = None  # type of the JSON answer, for msgspec; None: plain text
    stream: Any = None  # type of one server-sent event's data, where the route can stream
