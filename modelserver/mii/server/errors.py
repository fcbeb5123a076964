"""Every failure of a request as OpenAI's error object: {"error": {message, type, param, code}}."""

import logging

import msgspec
from aiohttp import web

from mii.errors import EngineDead, InvalidRequest, MIIError, UnknownArgument

log = logging.getLogger(__name__)


class ErrorBody(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(msgspec.Struct, frozen=True):
    error: ErrorBody


class ApiError(MIIError):
    """A refusal or failure with its HTTP status."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = ErrorBody(message, kind, param, code)


class Unavailable(ApiError):  # noqa: N818 - reads as what it is at the raise
    """The server loads, drains or has lost its engine; another replica may be able to help."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message, code="unavailable")


class RequestFailed(ApiError):  # noqa: N818
    """The engine gave up on this one request."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message, code="request_failed")


def api_error(error: Exception, request_id: str) -> ApiError:
    """`error` as its client may see it: what is not meant for users becomes a 500 without details."""
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            return ApiError(400, str(error), param=error.param, code=error.code)
        case UnknownArgument():
            return ApiError(400, str(error))
        case EngineDead():
            return Unavailable(str(error))
        case web.HTTPRequestEntityTooLarge():
            return ApiError(
                413, "the request body is larger than the server accepts", code="request_too_large"
            )
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return ApiError(405, f"{error.method} is not allowed here; use {allowed}")
        case web.HTTPNotFound():
            return ApiError(404, "no such path; GET /openapi.json lists what there is", code="not_found")
        case web.HTTPException():
            return ApiError(error.status, error.reason)
    return ApiError(500, f"internal error; the server's log has the details under {request_id}")


def report(error: Exception, shaped: ApiError, request_id: str) -> None:
    """Logs what failed here: one line, or the traceback of what should not happen.

    Neither clients' faults nor unavailability, which is logged once, where it begins.
    """
    if shaped.status != 500:
        return
    if isinstance(error, MIIError):
        log.warning("request %s: %s", request_id, shaped)
    else:
        log.error("request %s failed", request_id, exc_info=error)


def encode_error(error: ApiError) -> bytes:
    return msgspec.json.encode(ErrorReply(error.body))
