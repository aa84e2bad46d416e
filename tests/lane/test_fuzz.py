"""Whatever comes from either side, in whatever pieces and order: nothing escapes, nothing hangs, nothing grows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lane.world import FakeTransport, World

EXAMPLES = int(os.environ.get("TEST_LANE_EXAMPLES", "200"))
PATIENCE = 10.0


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # as mitmproxy has it
    yield loop
    loop.close()


fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

LINES = [
    *(b"GET / HTTP/1.1\r\n", b"HEAD /h HTTP/1.1\r\n", b"POST /p HTTP/1.0\r\n", b"PUT /blocked HTTP/1.1\r\n"),
    *(b"Host: h\r\n", b"Connection: close\r\n", b"Content-Length: 3\r\n", b"Content-Length: 70000\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Upgrade: x\r\n", b"Expect: 100-continue\r\n", b"X: \x00\r\n"),
    *(b"\r\n", b"\n", b"\r", b"abc", b"3\r\nabc\r\n", b"3;x=y\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"),
    *(b"ffffffffffffffffff\r\n", b"1\r\nx\r\n" * 500, b"x" * 70_000, b"\xff\x00", b"5\r\n", b"PRI * HTTP/2.0\r\n"),
]
ANSWERS = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.1 304 N\r\n", b"HTTP/1.1 100 C\r\n\r\n"),
    *(b"HTTP/1.1 103 E\r\n\r\n", b"HTTP/1.1 101 S\r\n\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 999 x\r\n"),
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]
waits = st.frozensets(st.sampled_from(["open", "requestheaders", "request", "responseheaders", "response", "error"]))
which = st.integers(0, 2)
happenings = st.one_of(
    st.tuples(st.just("client"), which, st.lists(st.sampled_from(LINES), min_size=1, max_size=6).map(b"".join)),
    st.tuples(
        st.just("client"), which, st.sampled_from([b"GET / HTTP/1.1\r\n\r\n", b"PUT /blocked HTTP/1.1\r\n\r\n" * 20])
    ),
    st.tuples(
        st.just("upstream"), which, st.lists(st.sampled_from(ANSWERS + LINES), min_size=1, max_size=4).map(b"".join)
    ),
    st.tuples(st.just("upstream"), which, st.just(ANSWERS[8])),
    st.tuples(st.sampled_from(["end", "reset", "stop", "drain"]), which, st.booleans()),
    st.tuples(st.sampled_from(["hook", "open", "open", "refuse", "wait"]), which, st.none()),
)


def do(world: World, what: str, number: int, how: Any) -> None:
    """One thing that a peer, an addon or the clock does."""
    if what == "client":
        while len(world.clients) <= number:
            world.new_client()
        world.clients[number].send(how)
    elif what == "upstream" and world.upstreams:
        world.upstreams[number % len(world.upstreams)].send(how)
    elif what == "hook":
        world.answer_hook()
    elif what in ("open", "refuse"):
        world.open_next(succeeds=what == "open")
    elif what == "wait":
        for end in tuple(world.lane.connections):
            end.look(world.loop.time(), PATIENCE)
            end.look(world.loop.time() + PATIENCE, PATIENCE)
    elif isinstance(how, bool) and (ends := world.clients if how else world.upstreams):
        far = ends[number % len(ends)]
        if what == "stop":
            far.takes = False
        else:
            getattr(far, what)()


@fuzzed
@given(st.lists(happenings, max_size=25), waits, st.booleans())
def test_no_bytes_and_no_order_of_things_do_harm(
    loop: asyncio.AbstractEventLoop, happens: list[Any], waits: frozenset[str], streams: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch, World(loop, patch, streams=streams, waits=waits) as world:
        for what, number, how in happens:
            do(world, what, number, how)
            world.settle()
            assert world.unsound() == []
        world.end_all()
        assert world.unsound() == []
        assert world.unended() == []


class Asker:
    """A client that asks for what nobody else does, and reads its answers."""

    def __init__(self, number: int, transport: FakeTransport) -> None:
        self.number = number
        self.transport = transport
        self.asked: list[tuple[str, str]] = []
        self.answered: list[bytes] = []
        self._seen = 0

    def ask(self, method: str, body: str) -> None:
        path = f"/{self.number}/{len(self.asked)}"
        self.asked.append((method, path))
        framing = {"": "", "length": "Content-Length: 3\r\n", "chunks": "Transfer-Encoding: chunked\r\n"}[body]
        content = {"": b"", "length": b"abc", "chunks": b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"}[body]
        self.transport.send(f"{method} {path} HTTP/1.1\r\nHost: h\r\n{framing}\r\n".encode() + content)

    def read(self) -> list[str]:
        """What is wrong with what came: each answer is to its request, in order, or is a 502."""
        reader = h11.Connection(h11.CLIENT)
        data = bytes(self.transport.got)
        for method, path in self.asked:
            if not data:
                break
            reader.send(h11.Request(method=method, target=path, headers=[("Host", "h")]))
            reader.send(h11.EndOfMessage())
            reader.receive_data(data)
            status, named, body = 0, "", b""
            while (event := reader.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    status, named = event.status_code, dict(event.headers).get(b"x-path", b"").decode()
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
            if not status:
                return []
            if status != 502 and (status, named) != (200, path):
                return [f"{path} was answered {status} {named!r} {body!r}"]
            data, _ = reader.trailing_data
            if reader.states[h11.SERVER] is not h11.DONE:
                break
            reader = h11.Connection(h11.CLIENT)
        return [] if not data or data == bytes(self.transport.got) else [f"behind the answers: {data!r}"]


class Answerer:
    """An upstream's connection: it reads requests, and names in each answer what was asked."""

    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport
        self.reader = h11.Connection(h11.SERVER)
        self.taken = 0
        self.asked: tuple[str, str] | None = None
        self.has_all = False
        self.wrong: list[str] = []

    def look(self) -> None:
        new = bytes(self.transport.got[self.taken :])
        self.taken += len(new)
        if new:
            self.reader.receive_data(new)
        while (event := self.reader.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            if isinstance(event, h11.Request):
                self.asked = event.method.decode(), event.target.decode()
                self.has_all = False
            elif isinstance(event, h11.EndOfMessage):
                self.has_all = True
        if self.has_all and self.reader.trailing_data[0]:
            self.wrong.append("a request while another is not answered")

    def answer(self, kind: str) -> None:
        """`more`: with another answer behind it that nobody asked for."""
        self.look()
        if self.asked is None or not self.has_all:
            return
        method, path = self.asked
        self.asked, self.reader = None, h11.Connection(h11.SERVER)
        body = b"" if method == "HEAD" else path.encode()
        close = "Connection: Close\r\n" if kind == "close" else ""
        if kind == "chunks":
            framing, body = (
                "Transfer-Encoding: chunked\r\n",
                (b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b""),
            )
            body = body or (b"" if method == "HEAD" else b"0\r\n\r\n")
        else:
            framing = f"Content-Length: {len(path)}\r\n"
        interim = b"HTTP/1.1 103 Early\r\n\r\n" if kind == "interim" else b""
        whole = interim + f"HTTP/1.1 200 OK\r\nX-Path: {path}\r\n{framing}{close}\r\n".encode() + body
        half = len(whole) // 2
        self.transport.send(whole[:half])
        self.transport.send(whole[half:])
        if kind == "more":
            self.transport.send(b"HTTP/1.1 200 OK\r\nX-Path: /nobody\r\nContent-Length: 0\r\n\r\n")
        if kind in ("close", "ends"):
            self.transport.end()


asks = st.tuples(
    st.just("ask"),
    which,
    st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
    st.sampled_from(["", "", "length", "chunks"]),
)
serves = st.tuples(
    st.just("serve"),
    which,
    st.sampled_from(["length", "length", "chunks", "interim", "close", "ends", "more"]),
    st.just(""),
)
others = st.tuples(st.sampled_from(["end", "reset", "settle", "settle", "leave"]), which, st.just(""), st.just(""))


@fuzzed
@given(st.lists(st.one_of(asks, asks, serves, serves, others), max_size=30), waits, st.booleans())
def test_each_answer_is_to_its_request(
    loop: asyncio.AbstractEventLoop, steps: list[Any], waits: frozenset[str], streams: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch, World(loop, patch, streams=streams, waits=waits) as world:
        askers = [Asker(number, world.new_client()) for number in range(3)]
        answerers: list[Answerer] = []
        for what, number, how, body in steps:
            if what == "ask":
                askers[number].ask(how, body)
            elif what == "serve" and answerers:
                answerers[number % len(answerers)].answer(how)
            elif what == "leave":
                askers[number].transport.reset()
            elif what in ("end", "reset") and world.upstreams:
                getattr(world.upstreams[number % len(world.upstreams)], what)()
            if what != "ask":  # or several come at once
                world.answer_hook()
                world.open_next(succeeds=True)
                world.settle()
            answerers += [Answerer(transport) for transport in world.upstreams[len(answerers) :]]
            for answerer in answerers:
                answerer.look()
            assert world.unsound() == []
            assert [wrong for one in [*askers] for wrong in one.read()] == []
            assert [wrong for one in answerers for wrong in one.wrong] == []
        world.end_all()
        assert world.unended() == []
