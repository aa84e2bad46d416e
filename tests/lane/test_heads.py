"""The lane reads a head as mitmproxy's layers do, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.net.http import http1
from mitmproxy.net.http.validate import validate_headers

from mitmproxy_moesif.capture.heads import ambiguity
from mitmproxy_moesif.lane.heads import (
    LONGEST_KNOWN,
    MOST_KNOWN,
    KnownLines,
    end_of_head,
    framing,
    plain_fields,
    request_of,
    response_of,
)
from mitmproxy_moesif.proxy import heads

read_request_head = heads.checked(http1.read_request_head)
read_response_head = heads.checked(http1.read_response_head)

START_LINES = (
    *(b"GET / HTTP/1.1", b"foo /a?b HTTP/1.0", b"GET * HTTP/1.1", b"GET http://h/ HTTP/1.1", b"CONNECT h:1 HTTP/1.1"),
    *(b"GET /\xff HTTP/1.1", b"GET / HTTP/1.2", b"GET  / HTTP/1.1", b"GET /\t HTTP/1.1", b" GET / HTTP/1.1"),
    *(b"G@T / HTTP/1.1", b"", b"GET /"),
)
STATUS_LINES = (
    *(b"HTTP/1.1 200 OK", b"HTTP/1.0 404 Not Here", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 204 No"),
    *(b"HTTP/1.1 103 A", b"HTTP/1.1  200 OK", b"HTTP/1.1 99 OK", b"HTTP/1.1 +20 OK", b"HTTP/2.0 200 OK"),
    *(b"HTTP/1.1 200 a  b ", b"200 OK", b""),
)
FIELD_LINES = (
    *(b"Host: h", b"host:x", b"X:  padded \t", b"X:", b"X", b": x", b" folded", b"X : y"),
    *(b"X: \x00", b"X: a\rb", b"X: a\nb", b"X: \xff", b"Upgrade: websocket", b"Expect: 100-continue"),
    *(b"Content-Length: 5", b"content-length: 05", b"Content-Length: +5", b"Content-Length: 5, 5"),
    *(b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"),
    *(b"Transfer-Encoding: \x0bchunked", b"TRANSFER-ENCODING: Chunked"),
    *(b"Connection: close", b"Connection: Keep-Alive, x", b"Connection: keep-alive"),
)
starts, answers = st.sampled_from(START_LINES), st.sampled_from(STATUS_LINES)
lines = st.sampled_from(FIELD_LINES)


@pytest.fixture(autouse=True)
def checked_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `moesif-proxy` puts them in place."""
    monkeypatch.setattr(http1, "read_response_head", read_response_head)


def stock_lines(head: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in head.split(b"\n")]


@given(starts, st.lists(lines, max_size=4))
def test_a_request_is_read_as_by_mitmproxy_or_left_to_it(start: bytes, fields: list[bytes]) -> None:
    head = b"\r\n".join([start, *fields])
    read = request_of(head, "h", 80, 1.0)
    if read is None:
        return
    ours, found = read
    stock = read_request_head(stock_lines(head))
    validate_headers(stock)
    assert (ours.data.method, ours.data.path, ours.data.http_version) == (
        stock.data.method,
        stock.data.path,
        stock.data.http_version,
    )
    assert ours.headers.fields == stock.headers.fields
    assert ambiguity(ours) in (None, "two Host headers")
    size = http1.expected_http_body_size(stock)
    assert found.has_body == (size != 0)
    assert found.is_chunked == (size is None)
    assert found.closes(ours.data.http_version) == http1.read.connection_close(ours.http_version, ours.headers)


@given(st.lists(lines, max_size=4))
def test_lines_are_read_alike_when_they_come_again(fields: list[bytes]) -> None:
    first = plain_fields(fields)
    assert plain_fields([bytes(bytearray(line)) for line in fields]) == first


def test_what_is_kept_of_lines_is_bounded() -> None:
    known = KnownLines()
    most = 0
    for number in range(3 * MOST_KNOWN):
        assert known[b"X: %d" % number] == (b"X", b"%d" % number)
        most = max(most, len(known))
    assert most == MOST_KNOWN
    long = b"Cookie: " + b"x" * LONGEST_KNOWN
    assert known[long] == (b"Cookie", b"x" * LONGEST_KNOWN)
    assert long not in known


PLAIN = [
    b"Host: h\r\nAccept: */*",
    b"X: \xff\r\nContent-Length: 12",
    b"Transfer-Encoding: chunked\r\nA:",
    b"Cookie: a=b; c=d",
]


@pytest.mark.parametrize(
    "fields", [b"Host: h\r\nA: */*", b"X: \xff\r\nContent-Length: 12", b"Transfer-Encoding: chunked\r\nA:"]
)
def test_ordinary_requests_are_the_lanes(fields: bytes) -> None:
    assert request_of(b"POST /a?b=c HTTP/1.1\r\n" + fields, "h", 80, 1.0) is not None


@given(answers, st.lists(lines, max_size=4), st.sampled_from([b"GET", b"HEAD"]))
def test_an_answer_is_read_as_by_mitmproxy(start: bytes, fields: list[bytes], method: bytes) -> None:
    request = http.Request("h", 80, method, b"http", b"", b"/", b"HTTP/1.1", http.Headers(), None, None, 1.0, None)
    head = b"\r\n".join([start, *fields])
    try:
        stock = read_response_head(stock_lines(head))
        size = http1.expected_http_body_size(request, stock)
    except ValueError:
        with pytest.raises(ValueError, match="Cannot parse HTTP response"):
            response_of(head, request.data.method)
        return
    ours, found, body = response_of(head, request.data.method)
    assert vars(ours.data) | {"timestamp_start": 0} == vars(stock.data) | {"timestamp_start": 0}
    assert type(body).__name__ == {None: "Chunked", -1: "UntilClose"}.get(size, "Fixed")
    assert getattr(body, "size", size) == size
    if found.is_plain:
        validate_headers(stock)
    assert found.closes(ours.data.http_version) == http1.read.connection_close(ours.http_version, ours.headers)
    assert framing(ours.headers.fields).is_chunked == ("chunked" in ours.headers.get("transfer-encoding", "").lower())


@pytest.mark.parametrize(
    ("buffer", "found"),
    [
        (b"", None),
        (b"GET / HTTP/1.1\r\nA: b\r\n", None),
        (b"A\r\n\r\nB", (1, 5)),
        (b"A\n\nB\r\n\r\n", (2, 3)),
        (b"A\n\r\nB\r\n\r\n", (2, 4)),
        (b"A\n\r\n\r\nB", (2, 4)),
        (b"A\r\n\nB", (3, 4)),
    ],
)
def test_a_head_ends_at_the_first_blank_line(buffer: bytes, found: tuple[int, int] | None) -> None:
    assert end_of_head(buffer, 0) == found


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nX: y\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nX: y\nZ: a"])
def test_a_bare_line_feed_is_not_plain(head: bytes) -> None:
    assert request_of(head, "h", 80, 1.0) is None


def test_an_answer_may_end_its_lines_with_it() -> None:
    request = http.Request("h", 80, b"GET", b"http", b"", b"/", b"HTTP/1.1", http.Headers(), None, None, 1.0, None)
    answer, _, _ = response_of(b"HTTP/1.1 200 OK\nX: y\n", request.data.method)
    assert answer.headers.fields == ((b"X", b"y"),)
