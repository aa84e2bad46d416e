"""What mitmproxy's HTTP/1 gets wrong, right: trailers, interim answers, and bodies that came over HTTP/2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.addon import addon_options
from tests.support.client import Client, encode_request
from tests.support.collector import Event, ScriptedCollector
from tests.support.h2 import H2Client, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

BODY = b'{"n": 1}'
HEAD = b"POST /%s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


class Setup:
    """A proxy for plain HTTP and one for TLS with HTTP/2, and what they talk to."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.collector = stack.enter_context(ScriptedCollector())
        self.upstream = stack.enter_context(ScriptedUpstream())
        options = addon_options(self.collector)
        self.plain = stack.enter_context(MoesifProxy(self.upstream.url, options))
        tls = ("--tls-cert", str(make_pem(folder)), "--set", "http2=true")
        self.tls = stack.enter_context(MoesifProxy(self.upstream.url, options, *tls))

    def request(self, path: str) -> RawRequest:
        (found,) = (request for request in self.upstream.requests() if request.path == path)
        return found

    def event(self, path: str) -> Event:
        self.collector.wait_for(len(self.upstream.requests()))
        (found,) = (event for event in self.collector.events() if event["request"]["uri"].endswith(path))
        return found


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with ExitStack() as stack:
        yield Setup(stack, tmp_path_factory.mktemp("http1"))


def sends(*pieces: bytes, close: bool = False) -> object:
    def handle(_request: RawRequest, connection: Connection) -> None:
        connection.send(*pieces, every=0.02)
        if close:
            connection.close()

    return handle


def chunked_answer(*pieces: bytes, trailers: wire.Pairs = ()) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    return head + wire.encode_chunks(*pieces, trailers=trailers)


def test_trailers_of_a_request(setup: Setup) -> None:
    with Client(setup.plain.port) as client:
        client.send(HEAD % b"request-trailers", wire.encode_chunks(BODY, trailers=[("X-T", "1"), ("Host", "evil")]))
        first = client.read_response()
        second = client.exchange("GET", "/after-request-trailers")
    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (200, 200)
    request = setup.request("/request-trailers")
    assert (request.body, request.trailers) == (BODY, [(b"X-T", b"1")])
    assert setup.event("/request-trailers")["request"]["body"] == {"n": 1}


def test_trailers_of_an_answer(setup: Setup) -> None:
    setup.upstream.answer("/trailers", chunked_answer(BODY, trailers=[("X-T", "1"), ("x-u", "2")]))
    with Client(setup.plain.port) as client:
        first = client.exchange("GET", "/trailers")
        second = client.exchange("GET", "/after-trailers")
    assert first is not None
    assert second is not None
    assert (first.body, first.trailers) == (BODY, [(b"X-T", b"1"), (b"x-u", b"2")])
    assert second.status == 200
    event = setup.event("/trailers")
    assert event["response"]["body"] == {"n": 1}
    assert event["metadata"]["trailers"] == {"x-t": "1", "x-u": "2"}


def test_a_request_is_dated_at_its_first_byte_not_at_the_end_of_its_head(setup: Setup) -> None:
    with Client(setup.plain.port) as slow, Client(setup.plain.port) as other:
        assert slow.exchange("GET", "/dated-before") is not None
        slow.send(b"GET /dated HTTP/1.1\r\n")
        for number in range(20):  # while these are answered, the head is not complete
            assert other.exchange("GET", f"/meanwhile-{number}") is not None
        slow.send(b"Host: h\r\n\r\n")
        assert slow.read_response() is not None
        assert slow.exchange("GET", "/dated-after") is not None
    times = [
        setup.event(path)["request"]["time"] for path in ("/dated-before", "/dated", "/meanwhile-1", "/dated-after")
    ]
    assert times == sorted(times)
    assert times[2] < setup.event("/meanwhile-19")["request"]["time"]  # so that the end of the head would be told apart


def test_trailers_of_an_answer_reach_an_http2_client(setup: Setup) -> None:
    setup.upstream.answer("/trailers-h2", chunked_answer(BODY, trailers=[("X-T", "1")]))
    with H2Client(setup.tls.port) as client:
        answer = client.exchange("GET", "/trailers-h2")
    assert (answer.status, answer.body, answer.trailers) == (200, BODY, [("x-t", "1")])


@pytest.mark.parametrize("together", [True, False])
def test_an_interim_answer_is_passed_on_and_the_final_one_follows(setup: Setup, together: bool) -> None:
    path = f"/interim-{together}"
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    final = wire.response(200, [("X-Final", "1")], BODY, reason="OK")
    pieces = [interim + interim + final] if together else [interim, interim, final]
    setup.upstream.answer(path, sends(*pieces))  # type: ignore[arg-type]
    with Client(setup.plain.port) as client:
        client.send(encode_request("GET", path))
        heads = [client.read_head(), client.read_head()]
        answer = client.read_response()
        after = client.exchange("GET", f"/after{path[1:]}")
    assert [head.head for head in heads if head] == [interim, interim]
    assert answer is not None
    assert (answer.status, answer.body, answer.get("x-final")) == (200, BODY, "1")
    assert after is not None
    assert setup.event(path)["response"]["status"] == 200


@pytest.mark.parametrize("together", [True, False])
def test_an_interim_answer_to_http2_and_none_to_http10(setup: Setup, together: bool) -> None:
    interim, final = b"HTTP/1.1 103 Early Hints\r\n\r\n", wire.response(200, [], BODY)
    pieces = [interim + final] if together else [interim, final]
    setup.upstream.answer("/interim-h2", sends(*pieces))  # type: ignore[arg-type]
    with H2Client(setup.tls.port) as client:
        assert client.exchange("GET", "/interim-h2").body == BODY
    with Client(setup.plain.port) as client:
        client.send(b"GET /interim-h2 HTTP/1.0\r\nHost: h\r\n\r\n")
        head = client.read_head()
    assert head is not None
    assert head.status == 200


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_any_number_of_interim_answers_may_come_at_once(setup: Setup, version: str) -> None:
    interim, final = b"HTTP/1.1 103 Early Hints\r\n\r\n", wire.response(200, [], BODY)
    setup.upstream.answer("/interim-many", sends(interim * 2_000 + final))  # type: ignore[arg-type]
    if version == "HTTP/2":
        with H2Client(setup.tls.port) as client:
            assert client.exchange("GET", "/interim-many").body == BODY
    else:
        with Client(setup.plain.port) as client:
            client.send(encode_request("GET", "/interim-many"))
            heads = [client.read_head() for _ in range(2_000)]
            answer = client.read_response()
        assert {head.status for head in heads if head} == {103}
        assert answer is not None
        assert answer.body == BODY


def test_an_upstreams_own_100_is_not_the_answer(setup: Setup) -> None:
    setup.upstream.answer("/own-100", sends(b"HTTP/1.1 100 Continue\r\n\r\n", wire.response(200, [], BODY)))  # type: ignore[arg-type]
    with Client(setup.plain.port) as client:
        client.send(encode_request("GET", "/own-100"))
        head = client.read_head()
    assert head is not None
    assert head.status == 200


def test_an_upstream_that_fails_after_an_interim_answer_is_a_502(setup: Setup) -> None:
    setup.upstream.answer("/interim-then-nothing", sends(b"HTTP/1.1 103 Early Hints\r\n\r\n", close=True))  # type: ignore[arg-type]
    with Client(setup.plain.port) as client:
        answer = client.exchange("GET", "/interim-then-nothing")
    assert answer is not None
    assert answer.status == 502
    assert setup.event("/interim-then-nothing")["response"]["status"] == 502


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", b"\r\n\r\n\n"])
def test_blank_lines_before_a_request_line_are_skipped(setup: Setup, blank: bytes) -> None:
    with Client(setup.plain.port) as client:
        for _ in range(2):
            client.send(blank, encode_request("POST", "/after-blank", body=BODY))
            answer = client.read_response()
            assert answer is not None
            assert answer.status == 200
        client.send(blank[:1])
        client.send(blank[1:] + encode_request("GET", "/after-blank"))
        assert client.read_response() is not None
    assert {request.body for request in setup.upstream.requests() if request.path == "/after-blank"} == {BODY, b""}


@pytest.mark.parametrize("size", [1, 200_000])
def test_a_body_of_unknown_length_from_http2_reaches_an_http1_upstream(setup: Setup, size: int) -> None:
    body = b"x" * size
    with H2Client(setup.tls.port) as client:
        answer = client.exchange("POST", f"/unframed{size}", body=body)
    assert answer.status == 200
    request = setup.request(f"/unframed{size}")
    assert request.body == body
    assert request.get("transfer-encoding") == "chunked"
    assert "transfer-encoding" not in setup.event(f"/unframed{size}")["request"]["headers"]


def test_http2_requests_that_need_no_chunks_get_none(setup: Setup) -> None:
    with H2Client(setup.tls.port) as client:
        client.exchange("POST", "/framed", [("content-length", "8")], BODY)
        client.exchange("GET", "/bodiless")
    assert setup.request("/framed").body == BODY
    assert setup.request("/framed").get("transfer-encoding") is None
    assert setup.request("/bodiless").get("transfer-encoding") is None


def test_trailers_of_an_http2_request_follow_its_chunks(setup: Setup) -> None:
    with H2Client(setup.tls.port) as client:
        client.exchange("POST", "/h2-trailers", body=BODY, trailers=[("x-t", "1")])
        client.exchange("POST", "/h2-no-place", [("content-length", "8")], BODY, trailers=[("x-t", "1")])
    assert setup.request("/h2-trailers").trailers == [(b"x-t", b"1")]
    assert setup.request("/h2-no-place").body == BODY


# --- Expect: 100-continue ------------------------------------------------------------------------------------------


def expecting(path: str, size: int = len(BODY)) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
    return head.encode()


def test_the_upstream_is_asked_whether_to_continue(setup: Setup) -> None:
    with Client(setup.plain.port) as client:
        for number in range(2):
            client.send(expecting(f"/expect{number}"))
            head = client.read_head()
            assert head is not None
            assert head.status == 100
            client.send(BODY)
            answer = client.read_response()
            assert answer is not None
            assert (answer.status, answer.get("connection")) == (200, None)
            assert setup.request(f"/expect{number}").get("expect") == "100-continue"
            assert setup.event(f"/expect{number}")["request"]["body"] == {"n": 1}


@pytest.mark.parametrize("status", [413, 417])
def test_an_upstream_that_says_no_is_heard_before_the_body_is_sent(setup: Setup, status: int) -> None:
    path = f"/refused{status}"

    def refuse(request: RawRequest, connection: Connection) -> bool:
        if request.path == path:
            connection.send(wire.response(status, [], b"no", reason="No"))
            return True
        return False

    setup.upstream.on_head = refuse
    with Client(setup.plain.port) as client:
        client.send(expecting(path))
        head = client.read_head()
        assert head is not None
        assert (head.status, head.get("connection")) == (status, "close")
        assert client.stream.read() == b"no"
    assert setup.event(path)["response"]["status"] == status


def test_a_client_that_does_not_wait_is_served(setup: Setup) -> None:
    with Client(setup.plain.port) as client:
        client.send(expecting("/impatient") + BODY)
        answer = client.read_response()
        assert answer is not None
        assert answer.status == 200
        after = client.exchange("GET", "/after-impatient")
        assert after is not None
        assert after.status == 200


def test_a_client_of_an_upstream_that_fails_gets_502_and_nothing_before(
    collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    with MoesifProxy(upstream.url, addon_options(collector)) as proxy, Client(proxy.port) as client:
        upstream.refuse()
        client.send(expecting("/x"))
        head = client.read_head()
    assert head is not None
    assert head.status == 502


def test_where_rules_wait_for_the_body_the_proxy_tells_to_send_it(
    collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    options = addon_options(collector, stream=False)
    with MoesifProxy(upstream.url, options) as proxy, Client(proxy.port) as client:
        client.send(expecting("/x"))
        head = client.read_head()
        assert head is not None
        assert head.status == 100
        assert upstream.requests() == []
        client.send(BODY)
        answer = client.read_response()
    assert answer is not None
    assert answer.status == 200
    (request,) = upstream.requests()
    assert (request.get("expect"), request.body) == (None, BODY)
