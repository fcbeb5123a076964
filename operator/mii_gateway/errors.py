"""The gateway's own answers: OpenAI-shaped over HTTP, a status with details over gRPC."""

import json
from typing import Any

from grpc import StatusCode

_GRPC_CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """A request that the gateway answers itself.

    `status` is HTTP's, `code` a word for programs, `retry_after` the seconds after which
    trying again makes sense.
    """

    def __init__(self, status: int, message: str, *, code: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after = retry_after

    @property
    def grpc_code(self) -> StatusCode:
        return _GRPC_CODES[self.status]

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error = {"message": self.message, "type": _kind(self.status), "param": None, "code": self.code}
        return {"error": error}

    def event(self) -> bytes:
        """The same as one server-sent event."""
        return b"data: " + json.dumps(self.body()).encode() + b"\n\n"


def _kind(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def unauthenticated(message: str) -> Refusal:
    return Refusal(401, message, code="invalid_api_key")


def body_too_large(limit: int) -> Refusal:
    return Refusal(413, f"the request body is larger than {limit} bytes", code="request_too_large")


def queue_full(limit: str) -> Refusal:
    message = f"no replica has room and {limit} already wait for one; try again later"
    return Refusal(429, message, code="queue_full", retry_after=1)


def no_replica(seconds: float) -> Refusal:
    message = f"no replica could take the request within {seconds:g} seconds"
    return Refusal(503, message, code="no_replica", retry_after=5)


def replica_failed(replica: str, reason: str, attempts: int) -> Refusal:
    message = f"replica {replica} {reason}; given up after {attempts} attempts"
    return Refusal(503, message, code="replica_failed", retry_after=1)


def replica_silent(replica: str, seconds: float) -> Refusal:
    return Refusal(504, f"replica {replica} sent nothing for {seconds:g} seconds", code="replica_silent")


def stream_cut(replica: str, why: str) -> Refusal:
    return Refusal(502, f"replica {replica} was lost while it answered: {why}", code="replica_lost")
