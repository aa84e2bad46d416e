"""What we take for the request is what the upstream takes for it, under `mitmdump -s` and `moesif-proxy`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.addon import addon_options
from tests.support.client import Client, RawResponse, exchange
from tests.support.collector import Event, ScriptedCollector
from tests.support.h2 import H2Client, H2Message, make_certificate
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

ENGINES = ["mitmdump", "moesif-proxy"]
SECRET = "5ecre7"


class Setup:
    """Both proxies before one upstream, `moesif-proxy` also over TLS."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.collector = stack.enter_context(ScriptedCollector())
        self.upstream = stack.enter_context(ScriptedUpstream())
        chain, key = make_certificate(folder)
        both = folder / "both.pem"
        both.write_bytes(chain.read_bytes() + key.read_bytes())
        options = addon_options(self.collector, request_header_masks=["authorization"], response_header_masks=["x-key"])
        self.proxies = {
            "mitmdump": stack.enter_context(Mitmdump(self.upstream.url, options)),
            "moesif-proxy": stack.enter_context(MoesifProxy(self.upstream.url, options)),
        }
        tls = ("--tls-cert", str(both), "--set", "http2=true")
        self.tls = stack.enter_context(MoesifProxy(self.upstream.url, options, *tls))

    def event(self, target: str) -> Event:
        """Waits for the one event of a request to `target`."""
        self.collector.wait_for(lambda c: any(e["request"]["uri"].endswith(target) for e in c.events()))
        (found,) = (event for event in self.collector.events() if event["request"]["uri"].endswith(target))
        return found

    def port(self, engine: str) -> int:
        return self.proxies[engine].port

    def ask(self, engine: str, raw: bytes) -> tuple[RawResponse | None, list[RawResponse | None]]:
        """The answer, and what else comes before the connection ends."""
        with Client(self.port(engine)) as client:
            client.send(raw)
            first = client.read_response()
            return first, [client.read_response()] if first is not None and first.get("connection") == "close" else []


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with ExitStack() as stack:
        yield Setup(stack, tmp_path_factory.mktemp("one-reading"))


REFUSED = {
    "bare CR": b"X: a\rAuthorization: Bearer 5ecre7\r\n",
    "another request behind bare CRs": b"X: a\r\rDELETE /admin/1 HTTP/1.1\rHost: h\r\r\r\n",
    "NUL": b"X: a\0b\r\n",
    "VT": b"X: a\vb\r\n",
    "FF": b"Authorization: Bearer\f5ecre7\r\n",
    "DEL": b"X: \x7f1\r\n",
    "ESC": b"X: a\x1b[2Jb\r\n",
    "folded line": b"X: a\r\n Authorization: Bearer 5ecre7\r\n",
    "folded by a tab": b"Authorization: Bearer\r\n\t5ecre7\r\n",
    "blank before the colon": b"Authorization : Bearer 5ecre7\r\n",
    "tab before the colon": b"Authorization\t: Bearer 5ecre7\r\n",
    "control in the name": b"X\x01Y: a\r\n",
    "no name": b": a\r\n",
    "no colon": b"Authorization Bearer 5ecre7\r\n",
    "two hosts": b"Host: other\r\n",
}
LINES = {  # nothing is left of it when hooks see the head
    "CR before the end of line": b"X: a\r\r\n",
    "VT before the value": b"Authorization: \vBearer 5ecre7\r\n",
    "FF behind the value": b"X: a\f\r\n",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_line_that_can_be_read_in_two_ways_is_refused(name: str, engine: str, setup: Setup) -> None:
    refused(
        setup,
        engine,
        b"POST /refused?token=5ecre7 HTTP/1.1\r\nHost: h\r\n" + REFUSED[name] + b"Content-Length: 0\r\n\r\n",
    )


@pytest.mark.parametrize("name", LINES)
def test_lines_that_hooks_cannot_see_are_refused_by_the_production_start(name: str, setup: Setup) -> None:
    refused(setup, "moesif-proxy", b"GET /refused HTTP/1.1\r\nHost: h\r\n" + LINES[name] + b"\r\n")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "start", [b"GET /a\0b HTTP/1.1", b"GET /\x01 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"G@T / HTTP/1.1"]
)
def test_a_request_line_that_is_none_is_refused(start: bytes, engine: str, setup: Setup) -> None:
    refused(setup, engine, start + b"\r\nHost: h\r\n\r\n")


@pytest.mark.parametrize("start", [b"GET\t/ HTTP/1.1", b"GET /\v HTTP/1.1", b"GET / HTTP/1.1\r", b"\x85GET / HTTP/1.1"])
def test_a_request_line_with_other_white_space_is_refused_by_the_production_start(start: bytes, setup: Setup) -> None:
    refused(setup, "moesif-proxy", start + b"\r\nHost: h\r\n\r\n")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_absolute_target_of_another_host_is_refused(engine: str, setup: Setup) -> None:
    refused(setup, engine, b"GET http://other/x HTTP/1.1\r\nHost: h\r\n\r\n")


def refused(setup: Setup, engine: str, raw: bytes) -> None:
    """With 400 and the end of the connection; neither the upstream nor an event has it, nor the log of ours."""
    before = len(setup.upstream.requests())
    first, then = setup.ask(engine, raw)
    assert first is not None
    assert first.status == 400
    assert then in ([], [None])
    with Client(setup.port(engine)) as client:
        after = client.exchange("GET", f"/after-{before}")
    assert after is not None
    assert after.status == 200
    assert [request.path for request in setup.upstream.requests()[before:]] == [f"/after-{before}"]
    setup.event(f"/after-{before}")
    assert SECRET not in json.dumps(setup.collector.events())
    if engine == "moesif-proxy":  # what mitmdump says is mitmproxy's
        assert SECRET not in setup.proxies[engine].output + first.body.decode()


@pytest.mark.parametrize(
    "head",
    [
        b"X: a\rX-Key: 5ecre7\r\n",
        b"X: a\0\r\nX-Key: 5ecre7\r\n",
        b"X: a\r\n X-Key: 5ecre7\r\n",
        b"X-Key : 5ecre7\r\n",
        b"X: a\r\r<html>\r\n",
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 6\r\n\r\n5ecre7", b"Transfer-Encoding: chunked\r\n\r\n6\r\n5ecre7\r\n0\r\n\r\n"]
)
def test_such_a_line_of_an_answer_is_a_502(head: bytes, framing: bytes, engine: str, setup: Setup) -> None:
    target = f"/answer/{len(setup.upstream.requests())}"
    setup.upstream.answer(target, b"HTTP/1.1 200 OK\r\n" + head + framing)
    answer = exchange(setup.port(engine), target=target)
    assert answer is not None
    assert answer.status == 502
    assert SECRET not in repr(answer)
    event = setup.event(target)
    assert event["response"]["status"] == 502
    assert event["metadata"]["error"] == "upstream_failed"
    assert SECRET not in json.dumps(event)


H2_REFUSED = {
    "VT": [("x", "a\vb")],
    "FF": [("authorization", "Bearer\f5ecre7")],
    "ESC": [("x", "\x1b[1m")],
    "US": [("x", "a\x1fb")],
}


@pytest.mark.parametrize("name", H2_REFUSED)
def test_over_http2_the_stream_is_refused_and_the_connection_lives(name: str, setup: Setup) -> None:
    before = len(setup.upstream.requests())
    with H2Client(setup.tls.port) as client:
        refused, after = client.exchange_all(
            [h2_request("POST", "/refused", H2_REFUSED[name], body=b"{}"), h2_request("GET", "/after-h2")]
        )
    assert (refused.status, after.status) == (400, 200)
    assert [request.path for request in setup.upstream.requests()[before:]] == ["/after-h2"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "admin"),
        ("GET", "/ok HTTP/1.1"),
        ("GET", "/a\tb"),
        ("GET", "http://other/x"),
        ("DELETE /admin HTTP/1.1", "/"),
        ("G\x01T", "/"),
    ],
)
def test_over_http2_what_would_be_another_request_line_is_refused(method: str, path: str, setup: Setup) -> None:
    before = len(setup.upstream.requests())
    with H2Client(setup.tls.port) as client:
        (answer,) = client.exchange_all([h2_request(method, path)])
    assert answer.status == 400
    assert setup.upstream.requests()[before:] == []


def test_over_http2_an_ambiguous_trailer_is_dropped(setup: Setup) -> None:
    with H2Client(setup.tls.port) as client:
        answer = client.exchange("POST", "/trailer", body=b"{}", trailers=[("x-t", "a\vb")])
    assert answer.status == 200
    (request,) = (request for request in setup.upstream.requests() if request.path == "/trailer")
    assert request.trailers == []


def h2_request(method: str, path: str, headers: list[tuple[str, str]] | None = None, body: bytes = b"") -> H2Message:
    pseudo = [(":method", method), (":scheme", "https"), (":authority", "h"), (":path", path)]
    return H2Message([*pseudo, *(headers or [])], body)
