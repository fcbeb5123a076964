"""HTTP/1.1 heads as bytes, in both directions. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict

from mii_gateway.framing import Chunked, Empty, Framing, Length, UntilClose

LONGEST_HEAD = 2**16  # bytes
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([^\r\n\0]*))?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HAVE_BODIES = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True)
class Head:
    """A response's."""

    minor: int  # of HTTP's version
    status: int
    reason: str
    headers: CIMultiDict[str]

    @property
    def keeps_open(self) -> bool:
        return self.minor == 1 and "close" not in self.headers.get("Connection", "").lower()

    @property
    def informational(self) -> bool:
        return self.status < 200


def parse_head(raw: bytes) -> Head:
    """Of a response, without its empty line. Raises ValueError."""
    status_line, *lines = raw.split(b"\r\n")
    matched = _STATUS_LINE.fullmatch(status_line)
    if not matched or matched[2] == b"101":
        raise ValueError(f"{status_line[:40]!r} is no status line")
    headers = CIMultiDict(_header(line) for line in lines)
    return Head(int(matched[1]), int(matched[2]), (matched[3] or b"").decode("latin-1"), headers)


def framing(method: str, head: Head, *, stripped: bool = False) -> Framing:
    """Of this answer's body. Raises ValueError if the head contradicts itself."""
    if method == "HEAD" or head.status in (204, 304):
        return Empty()
    encodings = head.headers.getall("Transfer-Encoding", [])
    lengths = head.headers.getall("Content-Length", [])
    if encodings:
        if lengths or [encoding.lower() for encoding in encodings] != ["chunked"]:
            raise ValueError(f"Transfer-Encoding {encodings} with Content-Length {lengths}")
        return Chunked(stripped=stripped)
    if not lengths:
        return UntilClose()
    if len(set(lengths)) > 1 or not lengths[0].isdecimal() or not lengths[0].isascii():
        raise ValueError(f"Content-Length {lengths}")
    return Length(int(lengths[0]))


def request(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method in _HAVE_BODIES:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def response_head(minor: int, status: int, reason: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.{minor} {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "\r\n"]).encode(errors="surrogateescape")


def _header(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or b"\r" in value or b"\n" in value or b"\0" in value:
        raise ValueError(f"{line[:40]!r} is no header")
    return name.decode(), value.strip(b" \t").decode(errors="surrogateescape")
