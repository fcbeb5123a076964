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
    except web.RequestPayloadError:
        raise ApiError(
            400,
            "the body is not encoded as Content-Encoding or Transfer-Encoding says",
            code="invalid_encoding",
        ) from None
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {READ_SECONDS:.0f} s") from None


def _refusal(error: ValidationError, body: bytes) -> ApiError:
    if fault := _json_fault(error):
        return ApiError(400, f"the body is not valid JSON: {fault}", code="invalid_json")
    problem = first_problem(error, from_json(body))
    return ApiError(
        400, problem.message, param=problem.param, code="unknown_field" if problem.unknown else None
    )


def _json_fault(error: ValidationError) -> str | None:
    """What is wrong with the body as JSON, if that is what is wrong: then it is the only error."""
    if error.error_count() > 1 or error.errors()[0]["type"] != "json_invalid":
        return None
    return error.errors()[0]["msg"].removeprefix("Invalid JSON: ")
