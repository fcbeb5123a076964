"""Generate options as the `Value` messages of MII's gRPC service."""

from collections.abc import Mapping
from typing import Any

from mii.errors import InvalidRequest
from mii.server.proto import modelresponse_pb2 as pb


def to_values(options: Mapping[str, Any]) -> dict[str, pb.Value]:
    """One Value per option that is not None. Raises InvalidRequest naming an option of another type."""
    return {name: _value(name, option) for name, option in options.items() if option is not None}


def _value(name: str, option: Any) -> pb.Value:
    match option:
        case bool():  # before int: True is an int in Python
            return pb.Value(bvalue=option)
        case str():
            return pb.Value(svalue=option)
        case int():
            return _integer(name, option)
        case float():
            return pb.Value(dvalue=option)  # fvalue would round to 32 bits
        case list() | tuple():
            return pb.Value(lvalue=pb.List(values=[_value(name, item) for item in option]))
        case Mapping():
            return pb.Value(mvalue=pb.Dictionary(values=to_values(option)))
    raise InvalidRequest(
        f"option '{name}' is a {type(option).__name__}; bool, int, float, str, list and dict can be sent",
        param=name,
    )


def _integer(name: str, option: int) -> pb.Value:
    try:
        return pb.Value(ivalue=option)
    except ValueError:
        raise InvalidRequest(f"option '{name}' does not fit 64 bits: {option}", param=name) from None
