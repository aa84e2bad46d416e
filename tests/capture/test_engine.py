"""Refused requests: answered at once, their bodies neither awaited nor kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.capture.engine import MAX_DISCARDED, MAX_HEAD
from tests.support import wire
from tests.support.addon import addon_options, only_event
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, H2Upstream, make_pem
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., Mitmdump]

PIECE = b"x" * 1_000_000
PIECES = 150
MEMORY = 30_000_000

RULES = [
    {"path": "request.route", "value": "^/blocked"},
    {"path": "request.body.query", "value": "drop"},
]


@pytest.fixture(params=["mitmdump", "moesif_proxy"])
def start(request: pytest.FixtureRequest) -> Start:
    started: Start = request.getfixturevalue(request.param)
    return started


def options(collector: ScriptedCollector, folder: Path, **more: Any) -> dict[str, Any]:
    """Rules that block a path and a body; the gate refuses whatever has a token."""
    rules = folder / "rules.json"
    rules.write_text(
        json.dumps(
            [
                {
                    "_id": f"r{number}",
                    "type": "regex",
                    "block": True,
                    "response": {"status": 403, "headers": {}, "body": {"error": "no"}},
                    "regex_config": [{"conditions": [condition]}],
                }
                for number, condition in enumerate(RULES)
            ]
        )
    )
    return {
        **addon_options(collector, rules_file=str(rules), **more),
        "jwt_gate": True,
        "jwt_required": False,
        "jwt_key": "s" * 32,
    }


def head(method: str, target: str, *fields: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: h", *fields, b"", b""]
    return b"\r\n".join(lines)


def flood(client: Client, chunked: bool) -> int:
    """Send `PIECES` for as long as they are taken; how many were."""
    sent = 0
    with suppress(OSError):
        for _ in range(PIECES):
            client.send(b"%x\r\n%s\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
            sent += 1
    return sent


LENGTH = b"Content-Length: %d" % (len(PIECE) * PIECES)
CHUNKED = b"Transfer-Encoding: chunked"
TOKEN = b"Authorization: Bearer a.b.c"


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        ("/blocked", [LENGTH], 403),
        ("/blocked", [CHUNKED], 403),
        ("/free", [LENGTH, TOKEN], 401),
        ("/free", [CHUNKED, TOKEN], 401),
        ("/free", [LENGTH, TOKEN, b"Expect: 100-continue"], 401),
    ],
)
def test_a_refused_upload_costs_no_memory(
    target: str,
    fields: list[bytes],
    status: int,
    start: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    proxy = start(upstream.url, options(collector, tmp_path))
    with Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
    before = proxy.memory()
    with Client(proxy.port) as client:
        client.send(head("POST", target, *fields))
        answer = client.read_head()  # before any of the body was sent
        assert answer is not None
        assert answer.status == status
        assert client.stream.read(int(answer.get("content-length") or 0))
        assert flood(client, CHUNKED in fields) < PIECES
    assert proxy.peak_memory() - before < MEMORY
    assert [request.path for request in upstream.requests()] == ["/warm-up"]
    event = collector.wait_for(2)[-1]
    assert event["response"]["status"] == status
    assert event["metadata"]["body_omitted"] == {"request": "incomplete"}


def test_a_client_that_sends_everything_first_finds_the_answer(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    proxy = start(upstream.url, options(collector, tmp_path))
    with Client(proxy.port) as client:
        client.send(head("POST", "/blocked", LENGTH))
        flood(client, False)
        answer = client.read_head()
        assert answer is not None
        assert (answer.status, answer.get("connection")) == (403, "close")


SMALL_BODIES = list(product([0, 100_000, MAX_DISCARDED - 100_000], [False, True]))


def test_a_small_refused_body_leaves_the_connection_open(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    proxy = start(upstream.url, options(collector, tmp_path))
    for size, chunked in SMALL_BODIES:
        with Client(proxy.port) as client:
            for _ in range(3):
                answer = client.exchange("POST", "/blocked", [], b"x" * size, chunked=chunked)
                assert answer is not None
                assert (answer.status, answer.body) == (403, b'{"error":"no"}'), (size, chunked)
            answer = client.exchange("POST", "/free", [], b"y" * size)
            assert answer is not None
            assert answer.status == 200, (size, chunked)
    assert [len(request.body) for request in upstream.requests()] == [size for size, _ in SMALL_BODIES]
    assert len(collector.wait_for(4 * len(SMALL_BODIES))) == 4 * len(SMALL_BODIES)


def test_a_refused_stream_of_http2_is_reset_and_the_others_go_on(
    start: Start, collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path
) -> None:
    proxy = start(h2_upstream.url, options_with_tls(start, collector, h2_upstream, tmp_path))
    with H2Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
        before = proxy.memory()
        for _ in range(3):
            answer = client.exchange("POST", "/blocked", body=PIECE * 10)
            assert answer.status == 403
        assert client.exchange("POST", "/free", body=PIECE).status == 200
    assert proxy.peak_memory() - before < MEMORY
    assert len(h2_upstream.requests()) == 2


def options_with_tls(
    start: Start, collector: ScriptedCollector, h2_upstream: H2Upstream, folder: Path
) -> dict[str, Any]:
    """As `options`; moesif-proxy has a certificate of its own only where it is given one."""
    given = options(collector, folder) | {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path)}
    if start.__qualname__.startswith("moesif_proxy"):
        given["certs"] = str(make_pem(folder))
    return given


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_rules_wait_for_is_held_up_to_the_limit_and_no_further(
    chunked: bool, start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    received = [0]

    def swallow(request: RawRequest, connection: Connection) -> bool:
        if request.path != "/large":
            return False
        last = b""
        while not last.endswith(b"0\r\n\r\n") if chunked else received[0] < len(PIECE) * PIECES:
            last = connection.stream.read1(65_536)
            received[0] += len(last)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        return True

    upstream.on_head = swallow
    proxy = start(upstream.url, options(collector, tmp_path))
    with Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
        before = proxy.memory()
        client.send(head("POST", "/large", CHUNKED if chunked else LENGTH))
        assert flood(client, chunked) == PIECES
        if chunked:
            client.send(b"0\r\n\r\n")
        answer = client.read_response("POST")
    assert answer is not None
    assert answer.status == 200
    assert proxy.peak_memory() - before < MEMORY
    assert collector.wait_for(2)[-1]["metadata"]["body_omitted"] == {"request": "too_large"}


def test_a_body_within_the_limit_is_decided_when_it_is_whole(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    proxy = start(upstream.url, options(collector, tmp_path, request_max_body_size_limit=1000))
    with Client(proxy.port) as client:
        for body, status in ((b'{"query": "drop it"}', 403), (b'{"query": "keep it"}', 200)):
            answer = client.exchange("POST", "/x", [("Content-Type", "application/json")], body, chunked=True)
            assert answer is not None
            assert answer.status == status
    (request,) = upstream.requests()
    assert request.body == b'{"query": "keep it"}'
    assert collector.wait_for(2)


def test_what_was_held_is_passed_on_unchanged(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    proxy = start(upstream.url, options(collector, tmp_path, request_max_body_size_limit=1000))
    with Client(proxy.port) as client:
        client.send(head("POST", "/x", CHUNKED))
        for number in range(30):
            client.send(wire.encode_chunks(b"%100d" % number).removesuffix(b"0\r\n\r\n"))
        client.send(b"0\r\n\r\n")
        answer = client.read_response("POST")
    assert answer is not None
    assert upstream.requests()[0].body == b"".join(b"%100d" % number for number in range(30))
    assert only_event(collector)["metadata"]["body_omitted"] == {"request": "too_large"}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 300_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_a_head_over_the_bound_is_refused(
    sent: bytes, start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        with suppress(OSError):
            client.send(sent)
        answer = client.read_head()
        assert answer is not None
        assert (answer.status, answer.get("connection")) == (431, "close")
    assert not upstream.requests()


def test_a_head_within_the_bound_passes_whatever_follows(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        filling = b"X-Large: " + b"y" * (MAX_HEAD - 200)
        client.send(head("POST", "/", filling, b"Content-Length: 200000") + b"z" * 200_000)
        answer = client.read_response("POST")
        assert answer is not None
        assert answer.status == 200
    assert len(upstream.requests()[0].body) == 200_000


@pytest.mark.parametrize("piece", [b"1;" + b"x" * 1_000_000, b"0\r\n" + b"X: y\r\n" * 200_000])
def test_a_line_among_chunks_or_trailers_that_never_end_are_not_kept(
    piece: bytes, start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.handler = lambda _request, connection: connection.hang()
    proxy = start(upstream.url, addon_options(collector))
    before = proxy.memory()
    with Client(proxy.port) as client:
        client.send(head("POST", "/", CHUNKED))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            client.send(piece * PIECES)
    assert proxy.peak_memory() - before < MEMORY


@pytest.mark.parametrize(
    ("program", "engine", "end"),
    [
        ("mitmdump", "mitmproxy", r"reset|Broken pipe"),
        ("mitmdump", "fast", "timed out"),  # it waits for its turn
        ("moesif_proxy", "mitmproxy", r"reset|Broken pipe"),
        ("moesif_proxy", "fast", "timed out"),
    ],
)
def test_what_is_sent_ahead_of_its_turn_is_not_kept(
    program: str,
    engine: str,
    end: str,
    request: pytest.FixtureRequest,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
) -> None:
    start: Start = request.getfixturevalue(program)
    upstream.handler = lambda _request, connection: connection.hang()
    proxy = start(upstream.url, addon_options(collector, engine=engine))
    proxy.wait_for_output("moesif: started")  # under mitmdump, the layers serve whoever comes earlier
    before = proxy.memory()
    with Client(proxy.port) as client:
        client.send(head("GET", "/"))
        client.sock.settimeout(5)
        with pytest.raises(OSError, match=end):
            client.send(b"x" * 1_000_000 * PIECES)
    assert proxy.peak_memory() - before < MEMORY


def test_over_http2_a_head_over_the_bound_ends_the_connection(
    start: Start, collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path
) -> None:
    proxy = start(h2_upstream.url, options_with_tls(start, collector, h2_upstream, tmp_path))
    with H2Client(proxy.port) as client:
        assert client.exchange("GET", "/within", [("x-large", "y" * (MAX_HEAD - 5_000))]).status == 200
        with pytest.raises(AssertionError, match="the server closed the connection"):
            client.exchange("GET", "/over", [("x-large", "y" * MAX_HEAD)])
    assert [request.get(":path") for request in h2_upstream.requests()] == ["/within"]


# --- a kept connection that the upstream closes --------------------------------------------------------------------


class ClosesKept:
    """Answers the first request of each connection, and closes at the second."""

    def __init__(self, *, always: bool = False) -> None:
        self.seen: set[Connection] = set()
        self.always = always

    def __call__(self, request: RawRequest, connection: Connection) -> None:
        first = connection not in self.seen
        self.seen.add(connection)
        if not first or (self.always and request.path == "/second"):
            connection.close()
        else:
            connection.send(wire.response(200, [("X-Connection", str(len(self.seen)))], b"ok"))


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_request_that_met_a_closing_connection_is_sent_once_more(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, method: str
) -> None:
    upstream.handler = ClosesKept()
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        first, second = client.exchange("GET", "/first"), client.exchange(method, "/second")
    assert first is not None
    assert second is not None
    assert (first.status, second.status, second.get("x-connection")) == (200, 200, "2")
    assert [request.path for request in upstream.requests()] == ["/first", "/second", "/second"]
    statuses = {
        event["request"]["uri"].rpartition("/")[2]: event["response"]["status"] for event in collector.wait_for(2)
    }
    assert statuses == {"first": 200, "second": 200}
    assert proxy.stop() == 0
    assert len(collector.events()) == 2


@pytest.mark.parametrize(("method", "body"), [("POST", b"{}"), ("POST", None), ("PUT", b"{}"), ("PATCH", None)])
def test_what_may_not_be_sent_twice_is_not(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, method: str, body: bytes | None
) -> None:
    upstream.handler = ClosesKept()
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.exchange("GET", "/first")
        second = client.exchange(method, "/second", body=body)
    assert second is not None
    assert second.status == 502
    assert [request.path for request in upstream.requests()] == ["/first", "/second"]


def test_it_is_sent_no_more_than_once_more(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.handler = ClosesKept(always=True)
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.exchange("GET", "/first")
        second = client.exchange("GET", "/second")
    assert second is not None
    assert second.status == 502
    assert [request.path for request in upstream.requests()] == ["/first", "/second", "/second"]
    assert len(collector.wait_for(2)) == 2


def test_one_that_closes_a_fresh_connection_is_not_asked_again(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.handler = ClosesKept(always=True)
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        second = client.exchange("GET", "/second")
    assert second is not None
    assert second.status == 502
    assert len(upstream.requests()) == 1
