"""Answers of our own: in Kong's words, with nothing of what is behind the proxy."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from mitmproxy import http

from mitmproxy_moesif.capture.responses import own_answer
from tests.support import wire
from tests.support.addon import addon_options
from tests.support.client import Client, RawResponse, exchange
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., Mitmdump]

WORDS = "An invalid response was received from the upstream server"
JSON = [("Accept", "application/json")]
TELLING = (b"127.0.0.1", b"mitmproxy", b"rrno", b"<html", b"Connect call")


@pytest.fixture(params=["mitmdump", "moesif_proxy", "layers"])
def start(request: pytest.FixtureRequest) -> Start:
    started: Start = request.getfixturevalue("moesif_proxy" if request.param == "layers" else request.param)
    if request.param == "layers":
        return lambda upstream, options: started(upstream, {**options, "moesif_engine": "mitmproxy"})
    return started


def nowhere() -> str:
    """A URL where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def tells_nothing(answer: RawResponse | None) -> RawResponse:
    assert answer is not None
    assert not [word for word in TELLING if word in answer.head + answer.body]
    return answer


def test_a_502_tells_no_address_and_bears_the_transaction_id(start: Start, collector: ScriptedCollector) -> None:
    proxy = start(nowhere(), addon_options(collector))
    for number, method in enumerate(("GET", "POST", "HEAD"), start=1):
        answer = tells_nothing(exchange(proxy.port, method, "/x", body=b"body" if method == "POST" else None))
        assert (answer.status, answer.get("content-type")) == (502, "text/plain"), method
        assert answer.body == (b"" if method == "HEAD" else WORDS.encode()), method
        events = collector.wait_for(number)
        assert len(events) == number
        assert answer.get("x-moesif-transaction-id") == events[-1]["transaction_id"]


def test_a_502_is_json_in_kongs_form_where_the_client_asks_for_json(start: Start, collector: ScriptedCollector) -> None:
    proxy = start(nowhere(), addon_options(collector))
    answer = tells_nothing(exchange(proxy.port, "GET", "/x", JSON))
    assert (answer.status, answer.get("content-type")) == (502, "application/json; charset=utf-8")
    assert json.loads(answer.body) == {"message": WORDS}


def test_a_502_bears_no_transaction_id_where_that_is_off(start: Start, collector: ScriptedCollector) -> None:
    proxy = start(nowhere(), addon_options(collector, disable_transaction_id=True))
    assert tells_nothing(exchange(proxy.port)).get("x-moesif-transaction-id") is None


def test_an_answer_that_is_no_http_is_a_502_that_quotes_nothing_of_it(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/x", b"SECRET nonsense\r\n\r\n")
    proxy = start(upstream.url, addon_options(collector))
    answer = tells_nothing(exchange(proxy.port, "GET", "/x", JSON))
    assert answer.status == 502
    assert json.loads(answer.body) == {"message": WORDS}


def test_a_502_over_http2(collector: ScriptedCollector, tmp_path: Path) -> None:
    options = {**addon_options(collector), "http2": True}
    with (
        MoesifProxy(nowhere(), options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        for accept, body in (("*/*", WORDS.encode()), ("application/json", json.dumps({"message": WORDS}).encode())):
            answer = client.exchange("GET", "/x", [("accept", accept)])
            assert (answer.status, answer.body) == (502, body)
            assert answer.get("x-moesif-transaction-id") is not None
            assert answer.get("server") is None


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000, 431),
    ],
)
def test_a_head_that_cannot_be_read(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, raw: bytes, status: int
) -> None:
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.send(raw)
        assert tells_nothing(client.read_response()).status == status


def test_a_body_over_mitmproxys_limit(start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    upstream.answer("/large", wire.response(200, [], b"x" * 5000))
    proxy = start(upstream.url, {**addon_options(collector), "body_size_limit": "1k"})
    answer = tells_nothing(exchange(proxy.port, "POST", "/x", JSON, b"x" * 5000))
    assert (answer.status, json.loads(answer.body)) == (413, {"message": "Payload too large"})
    assert tells_nothing(exchange(proxy.port, "GET", "/large", JSON)).status == 502


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json", True),
        ("text/html;q=0.5, Application/JSON; charset=utf-8", True),
        ("application/problem+json", True),
        ("*/*", False),
        ("text/html", False),
        ("application/jsonp", False),
        ("text/json-like", False),
    ],
)
def test_who_asks_for_json(accept: str, is_json: bool) -> None:
    request = http.Request.make("GET", "http://h/", headers=[(b"accept", accept.encode())])
    answer = own_answer(503, 'a "word"', request, ("X-More", "1"))
    assert answer.headers["content-type"].startswith("application/json") is is_json
    assert answer.text == ('{"message": "a \\"word\\""}' if is_json else 'a "word"')
    assert answer.headers["x-more"] == "1"


def test_an_unreadable_request_and_a_head() -> None:
    assert own_answer(503, "why", None).content == b"why"
    head = own_answer(503, "why", http.Request.make("HEAD", "http://h/"))
    assert (head.content, head.headers["content-length"]) == (b"", "3")
