"""How many connections are taken, and for how long: slow heads, idle ones, and descriptors that run short."""

from __future__ import annotations

import resource
import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from mitmproxy_moesif.proxy.accepting import OWN, affordable
from tests.support import wire
from tests.support.addon import addon_options
from tests.support.client import Client, exchange, trusting
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, get, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., MoesifProxy]

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def rest(client: Client) -> bytes:
    """All that comes until the proxy closes."""
    try:
        return client.stream.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("begin", "trickle"),
    [(b"", b""), (b"GET / HTTP/1.1\r\nX: ", b"x"), (b"", b"\r\n"), (GET, b"\r\n"), (GET + GET[:9], b"y")],
    ids=["silent", "a head without end", "blank lines", "blank lines after a request", "a slow second head"],
)
def test_a_client_that_asks_nothing_is_let_go(
    begin: bytes, trickle: bytes, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(
        upstream.url, addon_options(collector), "--header-timeout", "1.5", "--keepalive-timeout", "1.5"
    )
    closed = threading.Event()
    with Client(proxy.port) as client:
        client.send(begin)
        if begin.startswith(GET):
            assert client.read_response() is not None

        def drip() -> None:
            while not closed.wait(0.2):
                try:
                    client.send(trickle)
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert rest(client) == b""
        closed.set()
        dripping.join()
    assert exchange(proxy.port) is not None


HOLDS_FIRST = """
import asyncio
import sys

told = []

async def client_connected(client):
    told.append(client)
    if len(told) == 1:
        sys.stdout.write("held\\n")
        await asyncio.Event().wait()
"""


@pytest.fixture
def holds_first(tmp_path: Path) -> str:
    """A script whose hook never has done with the first client."""
    script = tmp_path / "holds_first.py"
    script.write_text(HOLDS_FIRST)
    return str(script)


@pytest.mark.parametrize(("engine", "tls"), [("fast", None), ("fast", trusting()), ("mitmproxy", None)])
def test_a_client_that_a_hook_is_told_of_is_let_go_and_so_are_others(
    engine: str,
    tls: ssl.SSLContext | None,
    holds_first: str,
    moesif_proxy: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    given = addon_options(collector, engine=engine)
    more = ["--tls-cert", str(make_pem(tmp_path))] if tls is not None else []
    proxy = moesif_proxy(upstream.url, given, "--header-timeout", "1.5", "-s", holds_first, *more)
    with Client(proxy.port) as held:
        proxy.wait_for_output("held\n")
        assert rest(held) == b""
    with Client(proxy.port, tls=tls) as other:
        assert rest(other) == b""


def test_an_answer_that_an_http2_client_reads_late_comes_whole(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """While it has not, its connection is not one on which nothing is asked; another is, and is closed."""
    upstream.answer("/large", wire.response(200, [], bytes(500_000)))
    tls = ("--tls-cert", str(make_pem(tmp_path)))
    options = {**addon_options(collector), "http2": True}
    proxy = moesif_proxy(upstream.url, options, *tls, "--keepalive-timeout", "1", "--header-timeout", "1")
    with H2Client(proxy.port) as late:
        streams = late.begin([get("/large")])
        collector.wait_for(1)
        with H2Client(proxy.port) as idle, pytest.raises(AssertionError, match="the server closed the connection"):
            idle.finish([1])
        (answer,) = late.finish(streams)
        assert len(answer.body) == 500_000
        with pytest.raises(AssertionError, match="the server closed the connection"):
            late.finish([3])


def test_a_stream_may_be_silent_for_longer_than_an_idle_connection(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    others_closed = threading.Event()

    def answer(_request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        connection.wait(others_closed)
        connection.send(b"data: 2\n\n")
        connection.close()

    upstream.answer("/sse", answer)
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--header-timeout", "1", "--keepalive-timeout", "1")
    with Client(proxy.port) as streaming, Client(proxy.port) as idle:
        streaming.send(b"GET /sse HTTP/1.1\r\nHost: h\r\n\r\n")
        assert streaming.read_head() is not None
        assert idle.exchange("GET", "/") is not None
        assert rest(idle) == b""
        others_closed.set()
        assert rest(streaming) == b"data: 1\n\ndata: 2\n\n"


def test_more_connections_than_allowed_wait_for_their_turn(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--max-connections", "2")
    with Client(proxy.port) as first, Client(proxy.port) as second:
        assert first.exchange("GET", "/1") is not None
        assert second.exchange("GET", "/2") is not None
        with Client(proxy.port) as third:
            third.send(GET)
            proxy.wait_for_output("2 connections are open, --max-connections: others wait")
            first.close()
            assert third.read_response() is not None
    assert proxy.output.count("others wait") == 1


def test_without_descriptors_new_connections_wait_and_one_line_says_so(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--max-connections", "1000")
    assert exchange(proxy.port) is not None
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (100, 100))
    with ExitStack() as opened:
        for _ in range(300):
            opened.enter_context(Client(proxy.port))
        proxy.wait_for_output("new connections wait")
    assert exchange(proxy.port) is not None
    assert len(proxy.output) < 5_000
    assert "Traceback" not in proxy.output


@pytest.mark.parametrize(
    ("limit", "connections"),
    [(256, (256 - OWN) // 2), (10, 1), (resource.RLIM_INFINITY, 1_000_000)],
)
def test_there_are_two_descriptors_for_each_connection(
    limit: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert affordable() == connections
