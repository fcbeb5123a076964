"""Bodies and heads as bytes, cut anywhere."""

import pytest
from multidict import CIMultiDict

from mii_gateway import wire
from mii_gateway.framing import LONGEST_CHUNK_HEAD, Chunked, Empty, Length, UntilClose, chunk
from mii_gateway.wire import Head, framing, parse_head

PAYLOADS = [b"data: 1\n\n", b"x" * 300, b"\r\n0\r\n\r\n", b"y"]
BODY = b"".join(map(chunk, PAYLOADS)) + b"0\r\n\r\n"


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 311, 4096])
def test_chunks_pass_whole_however_they_are_cut(size, stripped):
    body = Chunked(stripped=stripped)
    passed = b"".join(body.feed(BODY[at : at + size]) for at in range(0, len(BODY), size))
    assert passed == (b"".join(PAYLOADS) if stripped else BODY)
    assert body.ended
    assert not body.surplus


@pytest.mark.parametrize("cut", range(len(BODY) - 1))
def test_what_has_passed_ends_at_a_known_place(cut):
    body = Chunked()
    passed = body.feed(BODY[:cut])
    assert not body.ended
    assert BODY.startswith(passed)
    filling = b"\n" * (body.left - 2) + b"\r\n"[2 - min(body.left, 2) :]
    client = Chunked()
    client.feed(passed + filling + chunk(b"error") + b"0\r\n\r\n")
    assert client.ended


@pytest.mark.parametrize("tail", [b"0;x=y\r\n\r\n", b"0\r\nTrailer: 1\r\nOther: 2\r\n\r\n", b"000\r\n\r\n"])
def test_the_last_chunk_may_carry_more(tail):
    for cut in range(1, len(tail)):
        body = Chunked()
        assert body.feed(b"3\r\nabc\r\n" + tail[:cut]) + body.feed(tail[cut:]) == b"3\r\nabc\r\n" + tail
        assert body.ended


@pytest.mark.parametrize("head", [b"", b"x", b"-1", b"+1", b"1_0", b"0x1", b"1 1", b"g"])
def test_malformed_chunks_are_refused(head):
    with pytest.raises(ValueError, match="is no chunk length"):
        Chunked().feed(head + b"\r\nabc")


def test_an_endless_chunk_head_is_refused():
    with pytest.raises(ValueError, match="too long"):
        Chunked().feed(b"1;" + b"x" * LONGEST_CHUNK_HEAD)


def test_what_comes_after_the_end_is_noticed():
    bodies = [Chunked(), Length(3), Length(0), Empty()]
    for body, data in zip(bodies, (b"0\r\n\r\nHTTP", b"abcd", b"x", b"x"), strict=True):
        body.feed(data)
        assert body.ended
        assert body.surplus


def test_a_body_without_a_length_ends_when_it_is_closed():
    body = UntilClose()
    assert body.feed(b"abc") == b"abc"
    assert not body.ended
    body.closed()
    assert body.ended


def test_heads_are_parsed():
    head = parse_head(b"HTTP/1.1 200 All right\r\nA: 1\r\na:2\r\nX-Raw: \xff")
    assert (head.minor, head.status, head.reason) == (1, 200, "All right")
    assert head.headers.getall("A") == ["1", "2"]
    assert wire.response_head(1, 200, "All right", head.headers) == (
        b"HTTP/1.1 200 All right\r\nA: 1\r\na: 2\r\nX-Raw: \xff\r\n\r\n"
    )
    assert parse_head(b"HTTP/1.0 404").reason == ""


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not HTTP",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 101 Switching",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nbad name: 1",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded",
        b"HTTP/1.1 200 OK\r\nA: 1\nB: 2",
    ],
)
def test_malformed_heads_are_refused(raw):
    with pytest.raises(ValueError, match="is no"):
        parse_head(raw)


def head(status=200, **headers):
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Head(1, status, "", CIMultiDict(pairs))


@pytest.mark.parametrize(
    ("method", "answer", "kind"),
    [
        ("GET", head(Content_Length="3"), Length),
        ("GET", head(Transfer_Encoding="Chunked"), Chunked),
        ("GET", head(), UntilClose),
        ("HEAD", head(Content_Length="3"), Empty),
        ("GET", head(204), Empty),
        ("GET", head(304, Content_Length="3"), Empty),
    ],
)
def test_framings(method, answer, kind):
    assert isinstance(framing(method, answer), kind)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "3", "Transfer_Encoding": "chunked"},
        {"Transfer_Encoding": "gzip, chunked"},
        {"Content_Length": "-3"},
        {"Content_Length": "٣"},
        {"Content_Length": "3", "content-length": "4"},
    ],
)
def test_contradictions_are_refused(headers):
    with pytest.raises(ValueError, match="Content-Length"):
        framing("GET", head(**headers))


def test_a_request_has_a_length_where_it_may_have_a_body():
    plain = "GET /x?y HTTP/1.1\r\nHost: h:1\r\nA: é\r\n\r\n"
    assert wire.request("GET", "/x?y", "h:1", {"A": "é"}, b"") == plain.encode()
    assert b"Content-Length: 0\r\n\r\n" in wire.request("POST", "/", "h", {}, b"")
    assert wire.request("DELETE", "/", "h", {}, b"ab").endswith(b"Content-Length: 2\r\n\r\nab")
