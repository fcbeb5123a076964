"""Server-sent events over aiohttp."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from mii.server.errors import api_error, encode_error, report
from mii.server.routes import REQUEST_ID

DONE = b"data: [DONE]\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

_encode = msgspec.json.Encoder().encode


def event(message: Any) -> bytes:
    """One event whose data is `message` as JSON."""
    return b"data: " + _encode(message) + b"\n\n"


async def respond(request: web.Request, events: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Sends `events` as they come, no faster than the client reads.

    The response starts with the first event, so that whatever fails before it is an ordinary error response;
    what fails later becomes a last event {"error": …}, and the connection is closed.
    """
    async with aclosing(events):
        first = await anext(events)
        response = web.StreamResponse(headers=HEADERS | {"X-Request-Id": request[REQUEST_ID]})
        await response.prepare(request)
        try:
            await response.write(first)
            async for chunk in events:
                await response.write(chunk)
        except ConnectionError:
            raise  # the client left
        except Exception as error:
            await response.write(_error_event(error, request[REQUEST_ID]))
            response.force_close()
        await response.write_eof()
    return response


def _error_event(error: Exception, request_id: str) -> bytes:
    shaped = api_error(error, request_id)
    report(error, shaped, request_id)
    return b"data: " + encode_error(shaped) + b"\n\n"
