"""The options of a gRPC request as plain Python values. Pure."""

from collections.abc import Mapping
from typing import Any

from mii.errors import InvalidRequest
from mii.server.proto.modelresponse_pb2 import Value


def to_options(values: Mapping[str, Value]) -> dict[str, Any]:
    """Raises InvalidRequest for an option that holds no value."""
    return {name: _plain(value, name) for name, value in values.items()}


def _plain(value: Value, name: str) -> Any:
    match value.WhichOneof("oneof_values"):
        case None:
            raise InvalidRequest(f"the option '{name}' has no value", param=name)
        case "mvalue":
            return to_options(value.mvalue.values)
        case "lvalue":
            return [_plain(item, name) for item in value.lvalue.values]
        case kind:
            return getattr(value, kind)
