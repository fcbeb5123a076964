"""Which gRPC metadata travels end to end. Pure."""

from collections.abc import Iterable

from mii_gateway.owner import METADATA_KEY

Pair = tuple[str, str | bytes]

REQUEST_ID = "x-request-id"
AUTHORIZATION = "authorization"
# The transport writes its own; the owner's token is for the gateway alone.
_OWN = frozenset({"user-agent", "content-type", "te", METADATA_KEY})
_PASSED = frozenset({"grpc-status-details-bin", "grpc-trace-bin", "grpc-tags-bin"})


def end_to_end(metadata: Iterable[Pair] | None) -> tuple[Pair, ...]:
    """What the other side gets, without what gRPC reserves for itself."""
    return tuple((key, value) for key, value in metadata or () if _travels(key))


def request_metadata(
    metadata: Iterable[Pair] | None, request_id: str, *, authenticated: bool = False
) -> tuple[Pair, ...]:
    """What a replica gets; not the API key, if that was for the gateway."""
    replaced = (REQUEST_ID, AUTHORIZATION) if authenticated else (REQUEST_ID,)
    others = (pair for pair in end_to_end(metadata) if pair[0] not in replaced)
    return (*others, (REQUEST_ID, request_id))


def value(metadata: Iterable[Pair] | None, wanted: str) -> str | bytes | None:
    return next((value for key, value in metadata or () if key == wanted), None)


def _travels(key: str) -> bool:
    reserved = key.startswith((":", "grpc-")) and key not in _PASSED
    return not reserved and key not in _OWN
