"""Which headers travel end to end (RFC 9110, section 7.6.1). Pure."""

from collections.abc import Mapping

from multidict import CIMultiDict, istr

REQUEST_ID = istr("X-Request-Id")

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# The client library writes these anew: the address, the length of the body as read, and no 100-continue.
_REWRITTEN = frozenset({"host", "content-length", "expect"})


def request_headers(headers: Mapping[str, str], request_id: str) -> CIMultiDict[str]:
    """What a replica gets of a client's headers."""
    kept = end_to_end(headers)
    for name in _REWRITTEN:
        kept.popall(name, None)
    kept[REQUEST_ID] = request_id
    return kept


def not_utf8(headers: Mapping[str, str]) -> str | None:
    """The name of a header whose bytes would not survive being passed on; None if all would."""
    return next((name for name, value in headers.items() if not _is_text(value)), None)


def end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """A copy without what concerns one connection only."""
    dropped = HOP_BY_HOP | _named_by_connection(headers)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _named_by_connection(headers: Mapping[str, str]) -> set[str]:
    return {name.strip().lower() for name in headers.get("Connection", "").split(",")}


def _is_text(value: str) -> bool:
    """False for surrogates, which stand for bytes that are not UTF-8."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
