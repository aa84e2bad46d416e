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
from tests.support.h2 import H2Client, H2Message, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

ENGINES = ["mitmdump", "moesif-proxy"]
SECRET = "5ecre7"


def event_of(collector: ScriptedCollector, target: str) -> Event:
    """Waits for the one event of a request to `target`."""
    collector.wait_for(lambda c: any(event["request"]["uri"].endswith(target) for event in c.events()))
    (found,) = (event for event in collector.events() if event["request"]["uri"].endswith(target))
    return found


class Setup:
    """Both proxies before one upstream, `moesif-proxy` also over TLS."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.collector = stack.enter_context(ScriptedCollector())
        self.upstream = stack.enter_context(ScriptedUpstream())
        options = addon_options(self.collector, request_header_masks=["authorization"], response_header_masks=["x-key"])
        self.proxies = {
            "mitmdump": stack.enter_context(Mitmdump(self.upstream.url, options)),
            "moesif-proxy": stack.enter_context(MoesifProxy(self.upstream.url, options)),
        }
        tls = ("--tls-cert", str(make_pem(folder)), "--set", "http2=true")
        self.tls = stack.enter_context(MoesifProxy(self.upstream.url, options, *tls))

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


@pytest.mark.parametrize(
    "start", [b"GET\t/ HTTP/1.1", b"GET /\v HTTP/1.1", b"GET / HTTP/1.1\r", b" GET / HTTP/1.1", b"GET / HTTP/2.0"]
)
def test_a_request_line_that_mitmproxy_would_mend_is_refused_by_the_production_start(
    start: bytes, setup: Setup
) -> None:
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
    event_of(setup.collector, f"/after-{before}")
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
    event = event_of(setup.collector, target)
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


RULES = """
rules:
  - &rule
    _id: path
    type: regex
    block: true
    regex_config: [{conditions: [{path: request.route, value: "^/admin"}]}]
    response: {status: 403, body: blocked}
  - {<<: *rule, _id: verb, regex_config: [{conditions: [{path: request.verb, value: "^DELETE$"}]}]}
  - {<<: *rule, _id: header, regex_config: [{conditions: [{path: request.headers.X-Plan, value: "^free$"}]}]}
  - {<<: *rule, _id: host, regex_config: [{conditions: [{path: request.headers.Host, value: "^blocked[.]"}]}]}
  - {<<: *rule, _id: token, regex_config: [{conditions: [{path: request.headers.Authorization, value: "stolen"}]}]}
  - _id: body
    type: regex
    block: true
    regex_config:
      - conditions: [{path: request.route, value: "^/json"}, {path: request.body.a.role, value: "^admin$"}]
    response: {status: 403, body: blocked}
  - {_id: user, type: user, block: true, response: {status: 429}}
user_rules: {ada: [{rules: user}]}
"""


class Ruled:
    """Proxies with the rules in force, `governance_fail` open and closed."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.collector = stack.enter_context(ScriptedCollector())
        self.upstream = stack.enter_context(ScriptedUpstream())
        rules = folder / "rules.yaml"
        rules.write_text(RULES)
        options = addon_options(
            self.collector, rules_file=str(rules), user_id_header="x-user", request_max_body_size_limit=4000
        )
        self.open = stack.enter_context(Mitmdump(self.upstream.url, options))
        closed = options | {"moesif_governance_fail": "closed"}
        tls = ("--tls-cert", str(make_pem(folder)), "--set", "http2=true")
        self.closed = stack.enter_context(MoesifProxy(self.upstream.url, closed))
        self.tls = stack.enter_context(MoesifProxy(self.upstream.url, closed, *tls))

    def raw(self, engine: str, raw: bytes) -> int:
        with Client((self.open if engine == "mitmdump" else self.closed).port) as client:
            client.send(raw)
            answer = client.read_response("HEAD" if raw.startswith(b"HEAD") else "GET")
        assert answer is not None
        return answer.status

    def json(self, proxy: Mitmdump, body: bytes, *headers: tuple[str, str], chunked: bool = False) -> int:
        answer = exchange(proxy.port, "POST", "/json", headers, body, chunked=chunked)
        assert answer is not None
        return answer.status


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ruled]:
    with ExitStack() as stack:
        yield Ruled(stack, tmp_path_factory.mktemp("ruled"))


ADMIN = [
    b"/admin/1",
    b"//admin",
    b"///admin",
    b"/./admin",
    b"/x/../admin",
    b"/x/%2e%2e/admin",
    b"/../admin",
    b"/%61dmin",
    b"/%61%64min?x=/ok",
    b"/x/..//%61dmin",
    b"/admin#x",
    b"/x#/../admin",
    b"http://h/admin",
    b"http://h//x/../admin",
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("target", ADMIN)
def test_a_path_is_matched_as_sent_and_normalized(target: bytes, engine: str, ruled: Ruled) -> None:
    assert ruled.raw(engine, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n") == 403


@pytest.mark.parametrize("path", [*(target.decode() for target in ADMIN), "https://h/admin?x", "http://h/%61dmin"])
def test_the_same_over_http2(path: str, ruled: Ruled) -> None:
    with H2Client(ruled.tls.port) as client:
        (answer,) = client.exchange_all([h2_request("GET", path)])
    assert answer.status == 403


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "raw",
    [
        b"delete / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"DeLeTe / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Plan: free\r\nx-plan: gold\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Plan: gold\r\nx-plan: free\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: blocked.example\r\n\r\n",
    ],
)
def test_verbs_in_any_case_and_each_line_of_a_header(raw: bytes, engine: str, ruled: Ruled) -> None:
    assert ruled.raw(engine, raw) == 403


def test_the_host_of_an_http2_request(ruled: Ruled) -> None:
    with H2Client(ruled.tls.port) as client:
        assert client.exchange("GET", "/", authority="blocked.example").status == 403
        assert client.exchange("GET", "/", authority="h").status == 200


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["Authorization", "X-User", "X-Consumer-Username"])
def test_two_headers_that_say_who_calls_are_refused(name: str, engine: str, ruled: Ruled) -> None:
    before = len(ruled.upstream.requests())
    raw = b"GET / HTTP/1.1\r\nHost: h\r\n" + f"{name}: ada\r\n{name.lower()}: bob\r\n\r\n".encode()
    assert ruled.raw(engine, raw) == 400
    assert len(ruled.upstream.requests()) == before


FORBIDDEN = [
    b'{"a": {"role": "admin"}}',
    b'{"a": {"role": "user", "role": "admin"}}',
    b'{"a": {"role": "admin", "role": "user"}}',
    b'{"a": {"role": "user", "role": "admin", "role": "user"}}',
    b'{"a": {}, "a": {"role": "admin"}, "a": 7}',
    b'{"a.role": "user", "a": {"role": "admin"}}',
    b'{"\\u0061": {"r\\u006fle": "\\u0061dmin"}}',
    b'[{"a": {"role": "user"}}, {"a": {"role": "admin"}}]',
]


@pytest.mark.parametrize("body", FORBIDDEN)
def test_every_member_of_that_name_is_tried(body: bytes, ruled: Ruled) -> None:
    for proxy in (ruled.open, ruled.closed):
        assert ruled.json(proxy, body) == 403
        assert ruled.json(proxy, body, chunked=True) == 403


JSON = ("Content-Type", "application/json")
UNREADABLE = [
    (b'{"a": {"role": "admin", "n": 1e400}}', [JSON]),
    (b'{"a": {"role": "admin"}, "s": "\\ud800"}', [JSON]),
    (b'{"a": {"role": "admin"}, "d": %s1%s}' % (b"[" * 1500, b"]" * 1500), []),
    (b'\xef\xbb\xbf{"a": {"role": "admin"}}', [JSON]),
    ('{"a": {"role": "admin"}}'.encode("utf-16"), []),
    (b'{"a": {"role": "admin"}}', [JSON, ("Content-Encoding", "unknown")]),
    (b'{"a": {"role": "admin"}}', [JSON, ("Content-Encoding", "gzip")]),
    (b'{"a": {"role": "user", "x": 1, "x": 2}}', [JSON]),
    (b'{"a": {"role": "admin"}, "pad": "%s"}' % (b"x" * 5000), [JSON]),
]


@pytest.mark.parametrize("number", range(len(UNREADABLE)))
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_cannot_be_read_passes_open_and_is_refused_closed(number: int, chunked: bool, ruled: Ruled) -> None:
    body, headers = UNREADABLE[number]
    assert ruled.json(ruled.open, body, *headers, chunked=chunked) == 200
    before = len(ruled.upstream.requests())
    assert ruled.json(ruled.closed, body, *headers, chunked=chunked) == 503
    assert len(ruled.upstream.requests()) == before


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "image/png"])
def test_a_body_that_is_no_json_passes_closed(kind: str, ruled: Ruled) -> None:
    assert ruled.json(ruled.closed, b"a=1", ("Content-Type", kind)) == 200
    assert ruled.json(ruled.closed, b'{"a": {"role": "user"}}', ("Content-Type", kind)) == 200


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_caller_of_a_rule_is_the_events(engine: str, framing: bytes, ruled: Ruled) -> None:
    """Where the answer tells that somebody else called than the request said, that one's rules apply to it."""
    mark = f"/caller/{engine}/{len(framing)}"
    for answered, status in (("ada", 429), ("bob", 200)):
        target = f"{mark}/{answered}"
        ruled.upstream.answer(target, b"HTTP/1.1 200 OK\r\nX-User: " + answered.encode() + b"\r\n" + framing)
        raw = f"GET {target} HTTP/1.1\r\nHost: h\r\nX-Consumer-Username: carl\r\n\r\n".encode()
        assert ruled.raw(engine, raw) == status
        event = event_of(ruled.collector, target)
        assert (event["user_id"], event["response"]["status"]) == (answered, status)
        assert event.get("blocked_by") == ("user" if status == 429 else None)
