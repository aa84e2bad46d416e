"""TLS toward clients: the layers shake hands, the lane carries what follows. That it does the same: test_same.py."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lane.test_limits import GET, LARGE, MORE
from tests.lane.test_opening import engines, options
from tests.support.client import Client, trusting
from tests.support.h2 import H2Client, make_pem
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.new_keys import KeyAsker
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain, until_close

CLIENTS = """
import sys
import time

def requestheaders(flow):
    if flow.request.path == "/block":
        sys.stdout.write("blocked\\n")
        time.sleep(1)

def client_connected(client):
    sys.stdout.write(f"came {client.peername[1]}\\n")

def client_disconnected(client):
    sys.stdout.write(f"gone {client.peername[1]}\\n")
"""

TAKES_ITS_TIME = """
import asyncio

async def tls_established_client(data):
    await asyncio.sleep(0.2)
"""

UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\n\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoesifProxy]:
    folder = tmp_path_factory.mktemp("secured")
    with start(upstream, folder, *scripted(folder, CLIENTS)) as proxy:
        yield proxy
        assert "Traceback" not in proxy.output
        assert "crashed" not in proxy.output


def start(upstream: ScriptedUpstream, folder: Path, *more: str) -> MoesifProxy:
    given = options(folder, moesif_engine="fast", http2=True)
    return MoesifProxy(upstream.url, given, "--tls-cert", str(make_pem(folder)), *more)


def carried(proxy: MoesifProxy, before: dict[str, int]) -> dict[str, int]:
    return {name: count - before[name] for name, count in engines(proxy).items()}


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("http/1.0",)])
def test_http1_is_the_lanes(alpn: tuple[str, ...], proxy: MoesifProxy) -> None:
    before = engines(proxy)
    with Client(proxy.port, tls=trusting(*alpn)) as client:
        for _ in range(3):
            answer = client.exchange("GET", "/")
            assert answer is not None
            assert answer.status == 200
    assert carried(proxy, before) == {"fast": 3, "mitmproxy": 0}


def test_a_hook_of_the_handshake_may_take_its_time(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with start(upstream, tmp_path, *scripted(tmp_path, TAKES_ITS_TIME)) as proxy:
        for _ in range(2):
            with Client(proxy.port, tls=trusting()) as client:
                assert client.exchange("GET", "/") is not None
                assert client.exchange("GET", "/") is not None
        early = Pieces(proxy.port)
        with early.sock:
            early.write(GET % b"/")
            early.send()
            assert early.read().startswith(b"HTTP/1.1 200 OK\r\n")
        proxy.stop()
        assert "captured 5, delivered 5" in proxy.output


def test_http2_is_the_layers(proxy: MoesifProxy) -> None:
    before = engines(proxy)
    with H2Client(proxy.port) as client:
        assert client.exchange("GET", "/").status == 200
    assert carried(proxy, before) == {"fast": 0, "mitmproxy": 1}


def test_what_the_lane_does_not_carry_goes_on_in_the_layers(proxy: MoesifProxy) -> None:
    before = engines(proxy)
    with Client(proxy.port, tls=trusting()) as client:
        client.send(GET % b"/first" + UPGRADE + GET % b"/third")
        answers = [client.read_response() for _ in range(3)]
        assert [answer and answer.status for answer in answers] == [200, 200, 200]
        assert client.exchange("GET", "/fourth") is not None
    assert carried(proxy, before) == {"fast": 1, "mitmproxy": 3}


class Pieces:
    """A client whose flights are sent as a test wants them."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 20)
        self._came, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trusting().wrap_bio(self._came, self._out, server_hostname="localhost")
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send()
                self._receive()
            else:
                return  # what ends it is not sent yet

    def write(self, data: bytes, *, last: bool = False) -> None:
        self._tls.write(data)
        if last:
            with pytest.raises(ssl.SSLWantReadError):
                self._tls.unwrap()

    def send(self) -> None:
        self.sock.sendall(self._out.read())

    def _receive(self) -> bool:
        data = self.sock.recv(65_536)
        self._came.write(data)
        return bool(data)

    def read_to_end(self) -> bytes:
        """Raises `ssl.SSLError` where the connection ends without a word of TLS."""
        return b"".join(iter(self.read, b""))

    def read(self) -> bytes:
        """What comes next; nothing at the end."""
        while True:
            try:
                return self._tls.read(65_536)
            except ssl.SSLWantReadError:
                if not self._receive():
                    self._came.write_eof()
            except ssl.SSLZeroReturnError:
                return b""


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(proxy: MoesifProxy) -> None:
    before = engines(proxy)
    client = Pieces(proxy.port)
    with client.sock:
        client.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        client.send()
        assert client.read_to_end().startswith(b"HTTP/1.1 200 OK\r\n")
    assert carried(proxy, before) == {"fast": 1, "mitmproxy": 0}


def test_a_body_that_comes_with_the_end_of_the_handshake_goes_on_in_the_layers_whole(
    proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    """All of it is there when the handshake ends, more than is read at once: the event loop was busy meanwhile."""
    body = b"x" * 300_000
    client = Pieces(proxy.port)
    with client.sock, Client(proxy.port, tls=trusting()) as other:
        other.send(GET % b"/block")
        proxy.wait_for_output("blocked\n")
        head = b"POST /whole HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\nContent-Length: %d\r\n\r\n"
        client.write(head % len(body) + body)
        client.send()
        assert client.read().startswith(b"HTTP/1.1 200 OK\r\n")
    assert [request.body for request in upstream.requests() if request.path == "/whole"] == [body]


@pytest.mark.parametrize("behind", ["in one piece with a request", "an exchange"])
def test_a_long_body_that_the_lane_does_not_carry_goes_on_in_the_layers(
    behind: str, proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    path, body = f"/long-{len(behind)}", b"x" * 1_000_000
    long = b"POST %s HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\nContent-Length: %d\r\n\r\n%s"
    sent = long % (path.encode(), len(body), body)
    with Client(proxy.port, tls=trusting()) as client:
        if behind == "an exchange":
            assert client.exchange("GET", "/") is not None
            client.send(sent)
        else:
            client.send(GET % b"/" + sent)
            assert client.read_response() is not None
        answer = client.read_response()
        assert answer is not None
        assert answer.status == 200
    assert [request.body for request in upstream.requests() if request.path == path] == [body]


@pytest.mark.parametrize("with_tls", [True, False])
def test_a_client_that_sends_no_more_behind_a_request_for_the_layers_is_let_go(
    with_tls: bool, proxy: MoesifProxy
) -> None:
    client = Pieces(proxy.port)
    with client.sock:
        client.write(GET % b"/")
        client.send()
        assert client.read().startswith(b"HTTP/1.1 200 OK\r\n")
        client.write(UPGRADE, last=with_tls)
        client.send()
        if not with_tls:
            client.sock.shutdown(socket.SHUT_WR)
        port = client.sock.getsockname()[1]
        proxy.wait_for_output(f"gone {port}\n")


def test_nothing_is_kept_of_what_comes_behind_the_end_of_tls(proxy: MoesifProxy, upstream: ScriptedUpstream) -> None:
    go = threading.Event()

    def slow(request: RawRequest, connection: Connection) -> None:
        connection.wait(go)
        plain(request, connection)

    upstream.answer("/held", slow)
    client = Pieces(proxy.port)
    with client.sock:
        before = proxy.memory()
        client.write(GET % b"/held", last=True)
        client.send()
        for _ in range(LARGE // 1_000_000):
            client.sock.sendall(b"x" * 1_000_000)
        assert proxy.memory() - before < MORE
        go.set()
        assert client.read_to_end().startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_asks_for_new_keys_and_reads_nothing_is_dropped(
    proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    go = threading.Event()
    upstream.answer("/keys", lambda _request, connection: connection.wait(go))
    with KeyAsker(proxy.port) as client:
        client.write(GET % b"/keys")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.ask(600_000)
    go.set()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_client_that_says_it_sends_no_more_gets_its_answers(at_once: bool, proxy: MoesifProxy) -> None:
    before = engines(proxy)
    client = Pieces(proxy.port)
    with client.sock:
        if not at_once:
            client.send()
        client.write(GET % b"/first" + GET % b"/second", last=True)
        client.send()
        assert client.read_to_end().count(b"HTTP/1.1 200 OK\r\n") == 2
    assert carried(proxy, before) == {"fast": 2, "mitmproxy": 0}


def test_an_answer_that_ends_with_its_connection_ends_with_a_word_of_tls(
    proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/until-close", until_close(b"all of it"))
    client = Pieces(proxy.port)
    with client.sock:
        client.write(GET % b"/until-close")
        client.send()
        assert client.read_to_end().endswith(b"\r\n\r\nall of it")


CLOSES = """
import sys
from mitmproxy import ctx

def tls_established_client(data):
    connections = ctx.master.addons.get("proxyserver").connections
    sys.stdout.write(f"{len(connections)} known\\n")
    connections[data.conn.id].close_connection(data.conn)

def client_disconnected(client):
    sys.stdout.write("gone\\n")
"""


def test_a_client_that_a_hook_closes_is_known_no_more(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with start(upstream, tmp_path, *scripted(tmp_path, CLOSES)) as proxy:
        for number in range(3):
            with Client(proxy.port, tls=trusting()) as client:
                assert client.stream.read() == b""
            proxy.wait_for_output("gone\n", count=number + 1)
        assert proxy.output.count("1 known\n") == 3
        proxy.stop()
        assert "Traceback" not in proxy.output


@pytest.mark.parametrize("when", ["after the handshake", "after a request", "within a request"])
def test_a_client_that_leaves_is_let_go(when: str, proxy: MoesifProxy) -> None:
    with Client(proxy.port, tls=trusting()) as client:
        if when != "after the handshake":
            assert client.exchange("GET", "/") is not None
        if when == "within a request":
            client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
        port = client.sock.getsockname()[1]
        if when == "within a request":
            client.reset()
    proxy.wait_for_output(f"gone {port}\n")
    assert proxy.output.count(f"came {port}\n") == proxy.output.count(f"gone {port}\n") == 1


def test_at_the_end_what_is_under_way_is_answered_and_idle_ones_are_closed(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    arrived, go = threading.Event(), threading.Event()

    def slow(request: RawRequest, connection: Connection) -> None:
        arrived.set()
        connection.wait(go)
        plain(request, connection)

    upstream.answer("/slow", slow)
    with (
        start(upstream, tmp_path) as proxy,
        Client(proxy.port, tls=trusting()) as idle,
        Client(proxy.port, tls=trusting()) as busy,
    ):
        assert idle.exchange("GET", "/") is not None
        busy.send(GET % b"/slow")
        assert arrived.wait(10)
        proxy.send_signal(signal.SIGTERM)
        assert idle.stream.read() == b""
        go.set()
        answer = busy.read_response()
        assert answer is not None
        assert (answer.status, answer.get("connection")) == (200, "close")
        assert proxy.wait_exit(timeout=30) == 0
        assert "captured 2, delivered 2" in proxy.output
