"""GET /openapi.json: the routes' own types as an OpenAPI 3.1 document."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

import mii
from mii.server.errors import ErrorReply
from mii.server.routes import Route

REFERENCE = "#/components/schemas/{name}"


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document for `routes`."""
    requests, schemas = models_json_schema(
        [(r.request, "validation") for r in routes if r.request],
        ref_template=REFERENCE.format(name="{model}"),
    )
    answers = {kind: None for r in routes for kind in (r.reply, r.stream) if kind is not None}
    answers |= {ErrorReply: None}
    shapes, components = msgspec.json.schema_components(list(answers), ref_template=REFERENCE)
    found = _Schemas(
        {model.__name__: schema for (model, _), schema in requests.items()},
        dict(zip(map(repr, answers), shapes, strict=True)),
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "MII model server", "version": mii.__version__},
        "paths": _paths(routes, found),
        "components": {"schemas": schemas.get("$defs", {}) | components},
    }


class _Schemas:
    def __init__(self, requests: dict[str, Any], answers: dict[str, Any]) -> None:
        self._requests, self._answers = requests, answers

    def request(self, route: Route) -> dict[str, Any]:
        assert route.request is not None
        return {
            "required": True,
            "content": _content("application/json", self._requests[route.request.__name__]),
        }

    def answers(self, route: Route) -> dict[str, Any]:
        content = _content("text/plain", {"type": "string"})
        if route.reply is not None:
            content = _content("application/json", self._answers[repr(route.reply)])
        if route.stream is not None:
            content |= _content("text/event-stream", self._answers[repr(route.stream)])
        error = _content("application/json", self._answers[repr(ErrorReply)])
        return {
            "200": {"description": "the answer", "content": content},
            "default": {"description": "what went wrong", "content": error},
        }


def _paths(routes: Sequence[Route], schemas: _Schemas) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in routes:
        path = re.sub(r":[^}]+}", "}", route.path)
        operation: dict[str, Any] = {"summary": route.summary, "responses": schemas.answers(route)}
        if route.request is not None:
            operation["requestBody"] = schemas.request(route)
        if names := re.findall(r"{(\w+)}", path):
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        paths.setdefault(path, {})[route.method.lower()] = operation
    return paths


def _content(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {media_type: {"schema": schema}}
