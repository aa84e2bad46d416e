"""The fast lane beside mitmproxy's layers: the same bytes to both sides, the same hooks in order, the same events.

What differs on purpose:

| difference | reason |
|---|---|
| connections toward the upstream are shared by clients: their hooks come once each | RFC 9112, 9.3: they are per hop |
| a request without a body is sent again when a kept connection was closed unused | RFC 9112, 9.3.1 |
| a body's pieces may be of other sizes | RFC 9112, 7.1: chunk boundaries mean nothing |
| `Connection: Close` closes in any case | RFC 9110, 7.6.1: connection options are case-insensitive |
| a connection to the upstream ends with its exchange where the request asked for that | RFC 9112, 9.6 |
| a connection ends with a message that an addon made longer or shorter than it says | RFC 9112, 6.3 and 9.3 |
| no last chunk follows a 304, and no body an answer to HEAD that an addon has set | RFC 9112, 6.3 |
| what comes ahead of its turn is read no further, where mitmproxy closes the connection | RFC 9112, 9.3.2 |
| an answer that begins with an empty line is none | RFC 9112, 4: a status line comes first |
| `101` is an error where nobody asked for another protocol | RFC 9110, 15.2.2 |
| who sends no more gets the answers to its whole requests, where mitmproxy takes it for gone | RFC 9112, 9.6 |
| under mitmdump: interim answers are passed on, where mitmproxy takes them for final | RFC 9110, 15.2 |
| under mitmdump: trailers are passed on, where mitmproxy drops them or hangs at them | RFC 9110, 6.5 |
"""

from __future__ import annotations

import itertools
import json
import os
import re
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support import ADDON_SCRIPT, wire
from tests.support.client import Client, RawResponse, trusting
from tests.support.h2 import make_certificate
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain

EXAMPLES = int(os.environ.get("TEST_LANE_EXAMPLES", "120"))

HOOKS = """
import asyncio, json, sys
from pathlib import Path

OUT = open(Path(__file__).with_suffix(".ndjson"), "a", buffering=1)

def note(hook, flow):
    request, response, error = flow.request, flow.response, flow.error
    OUT.write(json.dumps([
        request.path, hook, request.method, repr(request.headers.fields), request.raw_content is None,
        repr(request.trailers and request.trailers.fields),
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
    sys.stdout.write(f"error {flow.request.path}\\n")
"""


Events = dict[str, list[str]]


@dataclass(frozen=True)
class Conversation:
    """What one client sends, in pieces, and what the upstream answers to each of its requests.

    `leaves`: the client does, with a FIN or a reset, when this much of the request has come to the upstream ("head",
    "request" or nothing) and so many bytes of the answer's body to the client. `ends`: the upstream's connection does,
    behind the answer with a FIN or, when the client has these bytes of it, with a reset.
    """

    path: str
    methods: tuple[str, ...]
    sent: tuple[bytes, ...]
    answer: tuple[bytes, ...]
    leaves: str | None = None
    reached: str | None = None
    answered: int | None = None
    ends: str | None = None


class Side:
    """One engine under one program, and what was seen of it."""

    def __init__(self, program: str, front: str, scheme: str, engine: str, folder: Path, started: ExitStack) -> None:
        self.program = program
        self._tls = trusting() if front == "https" else None
        folder.mkdir()
        self.script = folder / "hooks.py"
        self.script.write_text(HOOKS)
        self.sink = folder / "events"
        certificate, key = make_certificate(folder)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        self.upstream = started.enter_context(ScriptedUpstream(tls=tls if scheme == "https" else None))
        self.upstream.on_head = self._on_head
        self._reached: dict[tuple[str, str], threading.Event] = defaultdict(threading.Event)
        self._took: dict[str, list[Any]] = {}
        options: dict[str, Option] = {
            "moesif_engine": engine,
            "moesif_sink_file": str(self.sink),
            "moesif_disable_transaction_id": True,
            "moesif_flush_interval": 50,
            "ssl_verify_upstream_trusted_ca": str(certificate),
        }
        self.proxy: Mitmdump
        if program == "mitmdump":
            self.proxy = Mitmdump(self.upstream.url, options, scripts=(ADDON_SCRIPT, self.script))
        else:
            both = folder / "both.pem"
            both.write_bytes(certificate.read_bytes() + key.read_bytes())
            given = ("--tls-cert", str(both)) if self._tls is not None else ()
            self.proxy = MoesifProxy(self.upstream.url, options, "-s", str(self.script), "--forwarded", "off", *given)
        started.enter_context(self.proxy)

    def hold(self, conversation: Conversation) -> tuple[list[Any], list[Any]]:
        """What the client and the upstream got: heads as they came, bodies without the sizes of their chunks."""
        self._took[conversation.path] = []
        self.upstream.answer(conversation.path, partial(self._respond, conversation))
        with self.client() as client:
            with suppress(OSError):  # it was refused before it was whole
                client.send(*conversation.sent)
            if conversation.leaves:
                got = self._leave(client, conversation)
            elif conversation.ends == "reset":
                got = self._be_left(client, conversation)
            else:
                got = read_all(client, conversation.methods)
        if conversation.ends and self._took[conversation.path]:
            # What comes next must not meet a connection that is about to close: only some requests may be sent again.
            assert self._reached[conversation.path, "end"].wait(10)
        return got, self._took[conversation.path]

    def client(self) -> Client:
        return Client(self.proxy.port, timeout=10, tls=self._tls)

    def ask(self, path: str) -> RawResponse | None:
        """On a connection of its own."""
        with self.client() as client:
            return client.exchange("GET", path)

    def _leave(self, client: Client, conversation: Conversation) -> list[Any]:
        if conversation.reached is not None:
            assert self._reached[conversation.path, conversation.reached].wait(10)
        got = [] if conversation.answered is None else read_begun(client, conversation.answered)
        if conversation.leaves == "reset":
            client.reset()
        return got

    def _be_left(self, client: Client, conversation: Conversation) -> list[Any]:
        """By the upstream, when nothing of its answer is on its way: a reset would discard that."""
        assert conversation.answered is not None
        got = read_begun(client, conversation.answered)
        self._reached[conversation.path, "answered"].set()
        return [*got, client.stream.read()]

    def _on_head(self, request: RawRequest, _connection: Connection) -> bool:
        self._reached[request.path, "head"].set()
        return False

    def _respond(self, conversation: Conversation, request: RawRequest, connection: Connection) -> None:
        head = request.raw.partition(b"\r\n\r\n")[0]
        self._took[conversation.path].append((head, request.body, request.trailers))
        self._reached[conversation.path, "request"].set()
        answer = conversation.answer
        if request.method == "HEAD":
            answer = (*interim_and_head(b"".join(answer)),)
        try:
            connection.send(*answer)
            if conversation.leaves:
                connection.hang()
            elif conversation.ends == "reset":
                connection.wait(self._reached[conversation.path, "answered"])
                connection.reset()
            elif conversation.ends:
                connection.close()
        finally:
            self._reached[conversation.path, "end"].set()

    def hooks(self) -> dict[str, list[Any]]:
        """What they were told, by path and in order."""
        told: dict[str, list[Any]] = {}
        for line in self.script.with_suffix(".ndjson").read_text().splitlines():
            path, *what = json.loads(line)
            told.setdefault(path, []).append(what)
        return told

    def has_ended(self) -> bool:
        """Whether every exchange has that began, and as many began as reached the upstream."""
        names = [what[0] for told in self.hooks().values() for what in told]
        ended = names.count("response") + names.count("error")
        return len(self.upstream.requests()) <= names.count("requestheaders") == ended

    def told(self, path: str, count: int) -> list[Any]:
        """So many hooks of a path, or more."""
        wait_until(lambda: len(self.hooks().get(path, [])) >= count)
        return self.hooks()[path]

    def events(self) -> Events:
        """By path, without what differs from one time to the next."""
        found: Events = {}
        for line in self.sink.read_text().splitlines() if self.sink.exists() else ():
            event = json.loads(line)
            path = event["request"]["uri"].rpartition("/")[2]
            for message in (event["request"], event.get("response", {})):
                message.pop("time", None)
            for name in ("transaction_id", "session_token"):
                event.pop(name, None)
            event["request"].pop("uri")
            event.get("metadata", {}).pop("latency_ms", None)
            found.setdefault(path, []).append(json.dumps(event, sort_keys=True))
        return {path: sorted(all_of) for path, all_of in found.items()}


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened() and time.monotonic() < deadline:  # what follows says what is missing
        time.sleep(0.05)


def read_begun(client: Client, size: int) -> list[Any]:
    """The heads of an answer, interim ones included, and so many bytes of its body."""
    heads: list[Any] = []
    while (head := client.read_head()) is not None:
        heads.append(head.head)
        if head.status >= 200:
            break
    return [*heads, client.stream.read(size)]


def read_all(client: Client, methods: tuple[str, ...]) -> list[Any]:
    """Each answer with the interim ones before it, until the connection ends."""
    got: list[Any] = []
    for method in itertools.chain(methods, itertools.repeat("GET")):
        try:
            answer = client.read_response(method)
        except wire.CutShortError as error:
            return [*got, error.partial]
        if answer is None:
            return got
        got.append((answer.head, answer.body, answer.trailers, answer.cut))
    return got


def interim_and_head(answer: bytes) -> Iterator[bytes]:
    """Of an answer to HEAD, what is sent."""
    while answer:
        head, end, answer = answer.partition(b"\r\n\r\n")
        yield head + end
        if not head.startswith(b"HTTP/1.1 1"):
            return


PROGRAMS = [
    ("moesif-proxy", "http", "http"),
    ("moesif-proxy", "http", "https"),
    ("moesif-proxy", "https", "http"),
    ("mitmdump", "http", "http"),
    ("mitmdump", "http", "https"),
    ("mitmdump", "https", "http"),
]
"""With what is spoken by the client and by the upstream."""


@pytest.fixture(scope="module", params=PROGRAMS, ids=" ".join)
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    folder = tmp_path_factory.mktemp("lane")
    program: tuple[str, str, str] = request.param
    with ExitStack() as started:
        fast, layers = (Side(*program, engine, folder / engine, started) for engine in ("fast", "mitmproxy"))
        yield fast, layers


numbers = itertools.count()
methods = st.sampled_from([b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"foo"])
names = st.sampled_from(
    [b"X-A", b"x-b", b"Accept", b"Cookie", b"TE", b"Via", b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Trailer"]
)
values = st.sampled_from([b"", b"1", b"a b", b"\xff\xfe", b"keep-alive", b"x-a, TE", b"  padded  ", b"x" * 300])
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
        b"Authorization: Negotiate YQ==\r\n",
    ]
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", b"HTTP/1.1 100 OK\r\n\r\n"
TRAILERS = re.compile(rb"\r\n0\r\n(?!\r\n)")
framings = st.sampled_from(["length", "chunked", "none"])
trailers = st.sampled_from([b"", b"", b"X-T: 1\r\n", b"X-T: 1\r\nx-u:\r\n", b"Content-Length: 7\r\n"])
extensions = st.sampled_from([b"", b"", b";a", b';a=b;c="d e"', b" \t"])


@st.composite
def framed(draw: st.DrawFn, framing: str, body: bytes) -> bytes:
    if framing == "length":
        return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    if framing == "chunked":
        chunks = [piece for piece in in_pieces(draw, body) if piece]
        extension = draw(extensions)
        encoded = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        return b"Transfer-Encoding: chunked\r\n\r\n" + encoded + b"0\r\n" + draw(trailers) + b"\r\n"
    return b"\r\n"


@st.composite
def requests(draw: st.DrawFn, path: bytes, *, last: bool, body: st.SearchStrategy[bytes]) -> tuple[str, bytes]:
    method = draw(methods)
    fields = b"".join(b"%s: %s\r\n" % field for field in draw(st.lists(st.tuples(names, values), max_size=3)))
    version = b"HTTP/1.1" if not last else draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    fields += b"Connection: close\r\n" if last else b""
    framing = draw(framings)
    if version == b"HTTP/1.0" and framing == "chunked":
        framing = "length"
    head = b"%s %s %s\r\nHost: h\r\n" % (method, path, version)
    return method.decode(), head + fields + draw(framed(framing, draw(body)))


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bool]:
    """One, and whether it ends with its connection."""
    status = draw(st.sampled_from([200, 200, 201, 204, 205, 304, 404, 500]))
    fields = b"".join(b"%s: %s\r\n" % field for field in draw(st.lists(st.tuples(names, values), max_size=2)))
    interim = b"".join(draw(st.lists(st.sampled_from(INTERIM), max_size=2)))
    body = b"" if status in (204, 205, 304) else draw(bodies)
    framing = "none" if status in (204, 304) else draw(st.sampled_from(["length", "chunked", "chunked", "none"]))
    start = b"HTTP/1.%d %d Some Reason\r\n" % (draw(st.sampled_from([1, 1, 0])) if framing != "chunked" else 1, status)
    whole = interim + start + fields + (b"\r\n" + body if framing == "none" else draw(framed(framing, body)))
    return whole, framing == "none" and status not in (204, 304)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Where a connection ends early nothing more is on its way: the kernel would reset it; what is read is chance."""
    path = f"/{next(numbers):06}"  # of one length, or examples would depend on their number
    answer, until_end = draw(answers())
    kind = draw(st.sampled_from(["whole", "whole", "cut", "odd", "leaves", "leaves"]))
    if kind == "odd":
        method, framing = draw(methods), draw(framings)
        head = b"%s %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" % (method, path.encode())
        sent = head + draw(odd) + draw(framed(framing, draw(st.binary(max_size=50))))
        return Conversation(path, (method.decode(),), (sent,), (answer,), ends="fin" if until_end else None)
    if kind == "leaves":
        return draw(leaving(path, answer))
    closes = until_end or b"HTTP/1.0" in answer.partition(b"Some Reason")[0]
    count = draw(st.integers(1, 3)) if kind == "whole" and not closes else 1
    body = bodies if count == 1 else small  # of what comes ahead of its turn only so much is kept
    asked = [draw(requests(path.encode(), last=number == count, body=body)) for number in range(1, count + 1)]
    ends = "fin" if until_end else None
    if kind == "cut":
        answer = answer[: draw(st.integers(1, len(answer)))]  # with nothing, it is the second difference
        ends = "fin"
    pieces = in_pieces(draw, b"".join(sent for _, sent in asked))
    return Conversation(path, tuple(method for method, _ in asked), pieces, in_pieces(draw, answer), ends=ends)


@st.composite
def leaving(draw: st.DrawFn, path: str, answer: bytes) -> Conversation:
    """A client that goes away in its head, in its body, while it waits, or in the answer; or an upstream that does."""
    how = draw(st.sampled_from(["fin", "reset"]))
    method, whole = draw(requests(path.encode(), last=False, body=st.binary(min_size=2, max_size=200)))
    head, _, body = whole.partition(b"\r\n\r\n")
    where = draw(st.sampled_from(["head", "body", "waiting", "answer"]))
    if where == "head":
        return Conversation(path, (method,), in_pieces(draw, head[: draw(st.integers(1, len(head)))]), (), leaves=how)
    if where == "body" and body:
        kept = len(whole) - draw(st.integers(1, len(body)))
        return Conversation(path, (method,), in_pieces(draw, whole[:kept]), (), leaves=how, reached="head")
    if where == "answer" and method != "HEAD" and b"chunked" not in answer and b"Content-Length" in answer:
        body_at = answer.index(b"\r\n\r\n", answer.index(b"Some Reason")) + 4
        if body_at < len(answer):
            begun = answer[: draw(st.integers(body_at, len(answer) - 1))]
            if draw(st.booleans()):
                return Conversation(path, (method,), (whole,), (begun,), "reset", "request", len(begun) - body_at)
            return Conversation(path, (method,), (whole,), (begun,), answered=len(begun) - body_at, ends="reset")
    return Conversation(path, (method,), in_pieces(draw, whole), (), leaves="reset", reached="request")


def in_pieces(draw: st.DrawFn, whole: bytes) -> tuple[bytes, ...]:
    """Cut anywhere; what is short also at every byte."""
    if len(whole) < 120 and draw(st.booleans()):
        return tuple(whole[at : at + 1] for at in range(len(whole)))
    at = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    return tuple(whole[start:end] for start, end in itertools.pairwise([0, *at, len(whole)]) if start < end)


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_generated_conversations_are_the_same(program: tuple[str, str, str], tmp_path: Path) -> None:
    with ExitStack() as started:
        fast, layers = (Side(*program, engine, tmp_path / engine, started) for engine in ("fast", "mitmproxy"))
        sides = fast, layers
        assert hold_all(sides) >= EXAMPLES
        wait_until(lambda: all(side.has_ended() for side in sides))
        assert [side.proxy.stop() for side in sides] == [0, 0]  # all events are there then
        assert sides[0].hooks() == sides[1].hooks()
        assert sides[0].events() == sides[1].events()


def is_beyond_mitmdump(conversation: Conversation) -> bool:
    """The last two differences."""
    sent, answer = b"".join(conversation.sent), b"".join(conversation.answer)
    return answer.startswith(INTERIM) or any(TRAILERS.search(message) for message in (sent, answer))


def hold_all(sides: tuple[Side, Side]) -> int:
    """How many conversations were the same for client and upstream."""
    held = [0]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=(Phase.explicit, Phase.generate),
    )
    @given(conversations())
    def compare(conversation: Conversation) -> None:
        if sides[0].program == "mitmdump":
            assume(not is_beyond_mitmdump(conversation))
        fast, layers = (side.hold(conversation) for side in sides)
        assert fast[0] == layers[0], conversation
        assert fast[1] == layers[1], conversation
        held[0] += 1

    compare()
    return held[0]


HANDED_OVER = {
    "an upgrade": b"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\nConnection: close\r\n\r\n",
    "CONNECT": b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
    "no HTTP/1": b" GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\x09\x01\x00\x00\x05hello\r\n\r\n",
}


@pytest.mark.parametrize("kind", HANDED_OVER)
def test_what_is_handed_over_is_answered_as_by_mitmproxy(kind: str, sides: tuple[Side, Side]) -> None:
    answers = []
    for side in sides:
        with side.client() as client:
            client.send(HANDED_OVER[kind])
            answers.append(client.stream.read())
    assert answers[0] == answers[1]


def test_clients_share_a_connection_to_the_upstream(sides: tuple[Side, Side]) -> None:
    fast = sides[0]
    assert fast.ask("/first") is not None
    before = fast.upstream.connections()
    for _ in range(5):
        assert fast.ask("/more") is not None
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

    assert fast.ask("/warm-up") is not None
    fast.upstream.answer(path, close_first)
    answer = fast.ask(path)
    assert answer is not None
    assert answer.status == 200
    assert [what[0] for what in fast.told(path, 4)] == ["requestheaders", "request", "responseheaders", "response"]


def test_a_client_that_leaves_while_a_hook_waits_is_an_error_once(sides: tuple[Side, Side]) -> None:
    for side in sides:
        with side.client() as client:
            client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
            side.told("/wait", 2)  # a reset may overtake what was sent
            client.reset()
        side.proxy.wait_for_output("error /wait")
        assert "crashed" not in side.proxy.output
    fast, layers = (side.told("/wait", 3) for side in sides)
    assert fast == layers
