"""DeepSpeed-MII's REST API: POST /mii/{deployment}."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import msgspec
from aiohttp import web
from pydantic import BeforeValidator, Field, WithJsonSchema

from mii.options import STRING_OR_LIST, MIIOptions, as_list
from mii.server.backend import Backend
from mii.server.body import parse
from mii.server.errors import ApiError
from mii.server.mii_generation import Reply, generate, generate_stream
from mii.server.routes import SERVICE, Route, json_response
from mii.server.service import Service
from mii.server.sse import event, respond


class MIIRequest(MIIOptions):
    prompts: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(fail_fast=True, min_length=1),
        BeforeValidator(as_list),
        WithJsonSchema(STRING_OR_LIST),
    ]


class Response(msgspec.Struct, frozen=True):
    """MII's Response as JSON."""

    generated_text: str
    prompt_length: int
    generated_length: int
    finish_reason: str


async def generate_route(request: web.Request) -> web.StreamResponse:
    body = await parse(request, MIIRequest)
    service = request.app[SERVICE]
    with service.admit() as engine:
        _check_deployment(request.match_info["deployment"], service)
        if body.stream:
            return await respond(request, _events(service, engine, body))
        replies = await generate(service, engine, body.prompts, body)
        return json_response([_response(reply) for reply in replies])


async def _events(service: Service, engine: Backend, body: MIIRequest) -> AsyncGenerator[bytes, None]:
    async with aclosing(generate_stream(service, engine, body.prompts, body)) as lists:
        async for replies in lists:
            yield event([_response(reply) for reply in replies])


def _response(reply: Reply) -> Response:
    return Response(reply.generated_text, reply.prompt_length, reply.generated_length, reply.finish_reason)


def _check_deployment(name: str, service: Service) -> None:
    if name != service.deployment_name:
        raise ApiError(
            404,
            f"the deployment '{name}' is not served here; there is '{service.deployment_name}'",
            param="deployment",
            code="deployment_not_found",
        )


ROUTES = [
    Route(
        method="POST",
        path="/mii/{deployment:.+}",
        handler=generate_route,
        summary="Generate from prompts (DeepSpeed-MII)",
        request=MIIRequest,
        reply=list[Response],
        stream=list[Response],
    )
]
