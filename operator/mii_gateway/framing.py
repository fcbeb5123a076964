"""Where an HTTP/1.1 body ends (RFC 9112, section 6). Pure.

A framing is fed what comes from a replica and says what of it goes on to the client: usually all of it, as it
came. It never looks into the content.
"""

from typing import Protocol

_HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF")
_COMMON = {b"%x" % length: length for length in range(1, 1024)}  # an event's; parsing costs more
LONGEST_CHUNK_HEAD = 2**14  # bytes, extensions or trailers included


class Framing(Protocol):
    surplus: bool  # whether more came than the body, after which the connection is unusable

    @property
    def ended(self) -> bool:
        """Whether the body is complete."""

    def feed(self, data: bytes) -> bytes:
        """What of it can go to the client now. Raises ValueError if it is malformed."""

    def closed(self) -> None:
        """The replica has closed its side in good order."""


class Empty:
    """No body: an answer to HEAD, 204, 304."""

    ended = True

    def __init__(self) -> None:
        self.surplus = False

    def feed(self, data: bytes) -> bytes:
        self.surplus = bool(data)
        return b""

    def closed(self) -> None: ...


class Length:
    """Content-Length."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.surplus = False

    @property
    def ended(self) -> bool:
        return not self.left

    def feed(self, data: bytes) -> bytes:
        self.surplus = len(data) > self.left
        data = data[: self.left]
        self.left -= len(data)
        return data

    def closed(self) -> None: ...


class UntilClose:
    """The body ends with the connection."""

    def __init__(self) -> None:
        self.ended = self.surplus = False

    def feed(self, data: bytes) -> bytes:
        return data

    def closed(self) -> None:
        self.ended = True


class Chunked:
    """Transfer-Encoding: chunked. Chunks pass as they are, or `stripped` for clients that know none.

    The head of a chunk is held back until it is complete, so that what has gone on always ends inside a chunk
    of known length (`left`) or between chunks.
    """

    def __init__(self, *, stripped: bool = False) -> None:
        self.ended = self.surplus = False
        self.left = 0  # bytes of the present chunk still to come, its final CRLF included
        self._head = b""
        self._stripped = stripped

    def feed(self, data: bytes) -> bytes:
        if self._head:
            data, self._head = self._head + data, b""
        payload = [data[: max(self.left - 2, 0)]] if self._stripped else []
        position, size = self.left, len(data)
        while position < size:
            start = data.find(b"\r\n", position) + 2
            length = _length(data[position : start - 2]) if start > 1 else -1
            if not length:
                end = data.find(b"\r\n\r\n", start - 2) + 4
                self.ended = end > 3
                if self.ended:
                    self.surplus = end < size
                    return b"".join(payload) if self._stripped else data[:end]
            if length <= 0:
                return self._hold(data, position, payload)
            position = start + length + 2
            if self._stripped:
                payload.append(data[start : start + length])
        self.left = position - size
        return b"".join(payload) if self._stripped else data

    def _hold(self, data: bytes, position: int, payload: list[bytes]) -> bytes:
        self.left, self._head = 0, data[position:]
        if len(self._head) > LONGEST_CHUNK_HEAD:
            raise ValueError("the head of a chunk is too long")
        return b"".join(payload) if self._stripped else data[:position]

    def closed(self) -> None: ...


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def _length(head: bytes) -> int:
    if common := _COMMON.get(head):
        return common
    digits = head.partition(b";")[0].strip()
    if not _HEXADECIMAL.issuperset(digits) or not digits:  # int() would take signs, 0x and underscores too
        raise ValueError(f"{head[:20]!r} is no chunk length")
    return int(digits, 16)
