"""Reading a JSON request body into its pydantic model."""

import asyncio
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from mii.server.errors import ApiError
from mii.server.routes import SERVICE
from mii.validation import first_problem

READ_SECONDS = 120.0  # a body that takes longer is a client that stopped sending

M = TypeVar("M", bound=BaseModel)


async def parse(request: web.Request, model: type[M]) -> M:
    """The body as `model`. Raises ApiError 400 (with the field), 408, or aiohttp's 413."""
    return validate(await _read(request), model)


def validate(body: bytes, model: type[M]) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, body) from None


async def _read(request: web.Request) -> bytes:
    limit = request.app[SERVICE].args.max_body_bytes
    if (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit, request.content_length or 0)
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {READ_SECONDS:.0f} s") from None


def _refusal(error: ValidationError, body: bytes) -> ApiError:
    if error.errors()[0]["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {_json_fault(error)}", code="invalid_json")
    problem = first_problem(error, from_json(body))
    return ApiError(
        400, problem.message, param=problem.param, code="unknown_field" if problem.unknown else None
    )


def _json_fault(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Invalid JSON: ")
