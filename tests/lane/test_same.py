"""The fast lane beside mitmproxy's layers: the same bytes to both sides, the same hooks in order, the same events.

What differs on purpose:

| difference | reason |
|---|---|
| connections toward the upstream are shared by clients: their hooks come once each | RFC 9112, 9.3: they are per hop |
| a request without a body is sent again when a kept connection was closed unused | RFC 9112, 9.3.1 |
| a body's pieces may be of other sizes | RFC 9112, 7.1: chunk boundaries mean nothing |
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support import wire
from tests.support.client import Client, exchange
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Option
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain

EXAMPLES = int(os.environ.get("TEST_LANE_EXAMPLES", "120"))

HOOKS = """
import asyncio, json
from pathlib import Path

OUT = open(Path(__file__).with_suffix(".ndjson"), "a", buffering=1)

def note(hook, flow):
    request, response, error = flow.request, flow.response, flow.error
    OUT.write(json.dumps([
        request.path, hook, request.method, repr(request.headers.fields), request.raw_content is None,
        response and [response.status_code, repr(response.headers.fields), response.raw_content is None,
                      repr(response.trailers and response.trailers.fields)],
        error and error.msg, flow.live,
    ]) + "\\n")

def requestheaders(flow): note("requestheaders", flow)
def request(flow):
    note("request", flow)
    return asyncio.sleep(0.3) if flow.request.path == "/wait" else None
def responseheaders(flow): note("responseheaders", flow)
def response(flow): note("response", flow)
def error(flow):
    note("error", flow)
    print("error", flow.request.path, flush=True)
"""


class Side:
    """One engine, and what was seen of it."""

    def __init__(self, engine: str, folder: Path, started: ExitStack) -> None:
        folder.mkdir()
        self.script = folder / "hooks.py"
        self.script.write_text(HOOKS)
        self.events = folder / "events"
        self.upstream = started.enter_context(ScriptedUpstream())
        options: dict[str, Option] = {
            "moesif_engine": engine,
            "moesif_sink_file": str(self.events),
            "moesif_disable_transaction_id": True,
            "moesif_flush_interval": 50,
        }
        more = ("-s", str(self.script), "--forwarded", "off")
        self.proxy = started.enter_context(MoesifProxy(self.upstream.url, options, *more))

    def ask(self, path: str, pieces: list[bytes], answer: list[bytes], *, cut: bool) -> tuple[list[Any], list[Any]]:
        """What the client and the upstream got: heads as they came, bodies without the sizes of their chunks."""

        def respond(_request: RawRequest, connection: Connection) -> None:
            connection.send(*answer)
            if cut:
                connection.close()

        self.upstream.answer(path, respond)
        with Client(self.proxy.port, timeout=10) as client:
            with suppress(OSError):  # it was refused before it was whole
                client.send(*pieces)
            got = [
                (answer.head, answer.body, answer.trailers, answer.cut) for answer in iter(client.read_response, None)
            ]
        took = [request for request in self.upstream.requests() if request.path == path]
        return got, [(request.raw.partition(b"\r\n\r\n")[0], request.body, request.trailers) for request in took]

    def hooks(self) -> dict[str, list[Any]]:
        """What they were told, by path and in order. An answer's last hook runs when it has been sent."""
        assert exchange(self.proxy.port, "GET", "/last") is not None
        told: dict[str, list[Any]] = {}
        for line in self.script.with_suffix(".ndjson").read_text().splitlines():
            path, *what = json.loads(line)
            told.setdefault(path, []).append(what)
        del told["/last"]
        return told


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    folder = tmp_path_factory.mktemp("lane")
    with ExitStack() as started:
        yield Side("fast", folder / "fast", started), Side("mitmproxy", folder / "mitmproxy", started)


numbers = itertools.count()
methods = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"foo"])
names = st.sampled_from([b"X-A", b"x-b", b"Accept", b"Cookie", b"TE", b"Via", b"Connection"])
values = st.sampled_from([b"", b"1", b"a b", b"\xff\xfe", b"keep-alive", b"  padded  ", b"x" * 300])
small = st.binary(max_size=200)
bodies = small | st.integers(60_000, 200_000).map(lambda size: b"y" * size)
odd = st.sampled_from(
    [
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: +1\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"X: a\r\n folded\r\n",
        b"X : a\r\n",
        b"X: a\rb\r\n",
        b"Host: other\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: other\r\n",
    ]
)
framings = st.sampled_from(["length", "chunked", "none"])


def framed(framing: str, body: bytes) -> bytes:
    if framing == "length":
        return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    if framing == "chunked":
        half = len(body) // 2
        pieces = [piece for piece in (body[:half], body[half:]) if piece]
        return b"Transfer-Encoding: chunked\r\n\r\n" + wire.encode_chunks(*pieces)
    return b"\r\n"


@st.composite
def requests(draw: st.DrawFn, path: bytes, *, last: bool, body: st.SearchStrategy[bytes]) -> bytes:
    fields = b"".join(b"%s: %s\r\n" % field for field in draw(st.lists(st.tuples(names, values), max_size=3)))
    fields += b"Connection: close\r\n" if last else b""
    head = b"%s %s HTTP/1.1\r\nHost: h\r\n" % (draw(methods), path)
    return head + fields + framed(draw(framings), draw(body))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from([200, 201, 204, 205, 304, 404, 500]))
    fields = b"".join(b"%s: %s\r\n" % field for field in draw(st.lists(st.tuples(names, values), max_size=2)))
    interim = draw(
        st.sampled_from([b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", b"HTTP/1.1 100 OK\r\n\r\n"])
    )
    body = b"" if status in (204, 205, 304) else draw(bodies)
    framing = "none" if status in (204, 304) else draw(st.sampled_from(["length", "chunked"]))
    return interim + b"HTTP/1.1 %d Some Reason\r\n" % status + fields + framed(framing, body)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[str, list[bytes], list[bytes], bool]:
    """A path of its own, what the client sends in pieces, what the upstream answers in pieces, and whether it is cut.

    Where a connection ends early nothing more is on its way: the kernel would reset it, and what is read is chance.
    """
    path = f"/{next(numbers):06}"  # of one length, or examples would depend on their number
    answer = draw(answers())
    kind = draw(st.sampled_from(["whole", "whole", "cut", "odd"]))
    if kind == "odd":
        head = b"%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" % (draw(methods), path.encode())
        return path, [head + draw(odd) + framed(draw(framings), draw(st.binary(max_size=50)))], [answer], False
    count = draw(st.integers(1, 3)) if kind == "whole" else 1
    body = bodies if count == 1 else small  # of what comes ahead of its turn only so much is kept
    sent = b"".join(draw(requests(path.encode(), last=number == count, body=body)) for number in range(1, count + 1))
    if kind == "cut":
        answer = answer[: draw(st.integers(1, len(answer)))]  # with nothing, it is the second difference
    return path, in_pieces(draw, sent), in_pieces(draw, answer), kind == "cut"


def in_pieces(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    at = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    return [whole[start:end] for start, end in itertools.pairwise([0, *at, len(whole)]) if start < end]


def test_generated_conversations_are_the_same(sides: tuple[Side, Side]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=(Phase.explicit, Phase.generate),
    )
    @given(conversations())
    def compare(conversation: tuple[str, list[bytes], list[bytes], bool]) -> None:
        path, pieces, answer, cut = conversation
        fast, layers = (side.ask(path, pieces, answer, cut=cut) for side in sides)
        assert fast[0] == layers[0]
        assert fast[1] == layers[1]

    compare()
    fast, layers = (side.hooks() for side in sides)
    assert fast == layers


HANDED_OVER = {
    "an upgrade": b"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\nConnection: close\r\n\r\n",
    "CONNECT": b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
    "no HTTP/1": b" GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\x05hello",
}


@pytest.mark.parametrize("kind", HANDED_OVER)
def test_what_is_handed_over_is_answered_as_by_mitmproxy(kind: str, sides: tuple[Side, Side]) -> None:
    answers = []
    for side in sides:
        with Client(side.proxy.port, timeout=10) as client:
            client.send(HANDED_OVER[kind])
            answers.append(client.stream.read())
    assert answers[0] == answers[1]


def test_clients_share_a_connection_to_the_upstream(sides: tuple[Side, Side]) -> None:
    fast = sides[0]
    assert exchange(fast.proxy.port, "GET", "/first") is not None
    before = fast.upstream.connections()
    for _ in range(5):
        assert exchange(fast.proxy.port, "GET", "/more") is not None
    assert fast.upstream.connections() == before


def test_a_get_on_a_kept_connection_that_was_closed_unused_is_sent_again(sides: tuple[Side, Side]) -> None:
    fast = sides[0]
    path = "/stale"
    asked = itertools.count()

    def close_first(request: RawRequest, connection: Connection) -> None:
        if next(asked) == 0:
            connection.close()
        else:
            plain(request, connection)

    assert exchange(fast.proxy.port, "GET", "/warm-up") is not None
    fast.upstream.answer(path, close_first)
    answer = exchange(fast.proxy.port, "GET", path)
    assert answer is not None
    assert answer.status == 200
    assert len(fast.hooks()[path]) == 4


def test_a_client_that_leaves_while_a_hook_waits_is_an_error_once(sides: tuple[Side, Side]) -> None:
    for side in sides:
        with Client(side.proxy.port) as client:
            client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        side.proxy.wait_for_output("error /wait")
        assert "crashed" not in side.proxy.output
    fast, layers = (side.hooks()["/wait"] for side in sides)
    assert fast == layers
