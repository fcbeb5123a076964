"""Around every handler: a request id, errors in one shape, and closed connections while draining."""

import re
import uuid

from aiohttp import web
from aiohttp.typedefs import Handler

from mii.server.errors import ApiError, api_error, encode_error, report
from mii.server.routes import REQUEST_ID, SERVICE
from mii.server.service import Phase

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[REQUEST_ID] = request_id = _request_id(request)
    try:
        response = await handler(request)
    except ConnectionError:
        raise  # the client left: nobody to answer
    except Exception as error:
        response = _error_response(error, request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
        if request.app[SERVICE].phase is Phase.DRAINING:
            response.force_close()
    return response


def _request_id(request: web.Request) -> str:
    """The client's, if it is fit to be logged and sent back."""
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _error_response(error: Exception, request_id: str) -> web.Response:
    shaped = api_error(error, request_id)
    report(error, shaped, request_id)
    return web.Response(
        status=shaped.status,
        body=encode_error(shaped),
        content_type="application/json",
        headers=_headers(error, shaped),
    )


def _headers(error: Exception, shaped: ApiError) -> dict[str, str]:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return {"Allow": error.headers["Allow"]}
    return {"Retry-After": "1"} if shaped.status == 503 else {}
