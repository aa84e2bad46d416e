"""Which heads can be read in one way only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_moesif.capture.heads import ambiguity, drop_ambiguous_trailers, refuse_answer, refuse_request
from mitmproxy_moesif.event.exchange import Fields

CONTROLS = [bytes([number]) for number in (*range(9), *range(10, 32), 127)]


def request(
    *fields: tuple[bytes, bytes], method: bytes = b"GET", path: bytes = b"/", authority: bytes = b""
) -> http.Request:
    made = tflow.tflow().request
    made.data.headers = http.Headers(fields)
    made.data.method, made.data.path, made.data.authority = method, path, authority
    return made


def answer(*fields: tuple[bytes, bytes]) -> http.Response:
    made = tflow.tflow(resp=True).response
    assert made is not None
    made.data.headers = http.Headers(fields)
    return made


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("value", [b"%s", b"a%s", b"%sa", b"a%sAuthorization: Bearer forged"])
def test_a_control_character_in_a_value_is_ambiguous(control: bytes, value: bytes) -> None:
    for message in (request((b"X", value % control)), answer((b"A", b"1"), (b"X", value % control))):
        assert ambiguity(message) == "a control character in a header value"


@pytest.mark.parametrize("name", [b"", b"X ", b"X\t", b" X", b"X:Y", b"X\0", b"X\xc3\xa9", b"X\r", b'"X"', b"X\n"])
def test_a_name_that_is_no_token_is_ambiguous(name: bytes) -> None:
    for message in (request((b"A", b"1"), (name, b"v")), answer((name, b"v"), (b"A", b"1"))):
        assert ambiguity(message) == "a header name that is no token"


@pytest.mark.parametrize(
    "fields",
    [(), ((b"X-Bytes", b"\xff\xc3\xa9\x85\xa0"),), ((b"X", b"a\tb"), (b"x", b"")), ((b"Host", b"[::1]:8080"),)],
)
def test_what_is_odd_and_clear_passes(fields: Fields) -> None:
    assert ambiguity(request(*fields)) is None
    assert ambiguity(answer(*fields)) is None


@pytest.mark.parametrize("path", [b"/", b"*", b"//a", b"/a%00?b=\xff[]|^", b"/http://x/", b"http://h/x", b"h://x"])
def test_paths_that_are_read_alike(path: bytes) -> None:
    assert ambiguity(request(path=path)) is None


@pytest.mark.parametrize(
    "path", [b"", b"x", b"/a b", b"/a HTTP/1.1", b"/a\tb", b"/\r", b"/\x7f", b"*x", b"http:x", b"?"]
)
def test_paths_that_are_not(path: bytes) -> None:
    assert ambiguity(request(path=path)) == "an invalid target"


@pytest.mark.parametrize("method", [b"", b"GET /x", b"G\0", b"G\xff", b"DELETE /admin HTTP/1.1"])
def test_methods_that_are_none(method: bytes) -> None:
    assert ambiguity(request(method=method)) == "an invalid method"


@pytest.mark.parametrize(
    ("hosts", "authority", "path", "why"),
    [
        ([b"a"], b"", b"/", None),
        ([b"a"], b"A", b"/", None),
        ([b"a:80"], b"a", b"/", None),
        ([], b"a", b"http://a/x", None),
        ([b"a", b"a"], b"", b"/", "two Host headers"),
        ([b"a"], b"b", b"/", "two hosts"),
        ([b"a:8080"], b"a", b"/", "two hosts"),
        ([], b"a", b"http://b/x", "two hosts"),
        ([b"a"], b"", b"http://b/x", "two hosts"),
        ([b"a/health?"], b"", b"/", "an invalid Host header"),
        ([b"a, b"], b"", b"/", "an invalid Host header"),
        ([b"a@b"], b"", b"/", "an invalid Host header"),
    ],
)
def test_hosts(hosts: list[bytes], authority: bytes, path: bytes, why: str | None) -> None:
    assert ambiguity(request(*((b"hOsT", host) for host in hosts), authority=authority, path=path)) == why


@pytest.mark.parametrize("value", [b"0" * 18, b"9" * 18])
def test_a_length_that_everybody_can_count_to(value: bytes) -> None:
    assert ambiguity(request((b"Content-Length", value))) is None


@pytest.mark.parametrize("value", [b"18446744073709551616", b"9223372036854775808", b"0" * 18 + b"5"])
def test_a_length_beyond_what_some_can_count_to(value: bytes) -> None:
    for message in (request((b"content-LENGTH", value)), answer((b"Content-Length", value))):
        assert ambiguity(message) == "a Content-Length that some cannot count to"


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=5)), max_size=3))
def test_what_passes_reads_the_same_line_by_line(fields: list[tuple[bytes, bytes]]) -> None:
    if ambiguity(answer(*fields)) is None:
        lines = b"".join(b"%s: %s\r\n" % field for field in fields)
        for separators in (b"\r", b"\n", b"\r\n", b"\0", b"\v", b"\f"):
            assert len(lines.replace(b"\r\n", b"\xff" * 3).split(separators)) == 1
        assert [tuple(line.split(b": ", 1)) for line in lines.split(b"\r\n")[:-1]] == fields


def test_a_refused_request_has_an_answer_and_a_refused_answer_no_body() -> None:
    flow = tflow.tflow(resp=True)
    assert not refuse_request(flow)
    assert not refuse_answer(flow)
    assert flow.response is not None
    flow.response.headers.fields = ((b"X", b"a\rb"),)
    assert refuse_answer(flow)
    assert (flow.response.status_code, flow.response.headers["connection"]) == (502, "close")
    assert callable(flow.response.stream)
    assert flow.response.stream(b"x") == b""
    flow.request.headers.fields = ((b"X", b"a\rb"),)
    assert refuse_request(flow)
    assert flow.response.status_code == 400
    assert b"a\r" not in bytes(flow.response.headers)


def test_saved_flows_are_not_refused() -> None:
    flow = tflow.tflow(resp=True)
    flow.live = False
    flow.request.headers.fields = ((b"X", b"a\rb"),)
    assert not refuse_request(flow)
    assert flow.response is not None
    assert flow.response.status_code == 200


def test_trailers_that_are_ambiguous_are_dropped() -> None:
    message = request()
    for fields, kept in ((((b"X", b"1"),), True), (((b"X", b"a\vb"),), False)):
        message.trailers = http.Headers(fields)
        drop_ambiguous_trailers(message)
        assert (message.trailers is not None) is kept
