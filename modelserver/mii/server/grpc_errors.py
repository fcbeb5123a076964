"""Failures of a request as gRPC statuses."""

import uuid

import grpc

from mii.server.errors import api_error, report

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


def status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status and details a client gets; what is not meant for users is logged instead."""
    request_id = uuid.uuid4().hex
    shaped = api_error(error, request_id)
    report(error, shaped, request_id)
    return _CODES.get(shaped.status, grpc.StatusCode.INTERNAL), str(shaped)
