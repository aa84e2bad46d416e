"""What the fast lane takes of memory and connections, whatever its peers do."""

from __future__ import annotations

import itertools
import random
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.client import Client, exchange, trusting
from tests.support.h2 import make_pem
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.proxy import Option
from tests.support.upstream import Connection, Handler, RawRequest, ScriptedUpstream, plain

LARGE = 50_000_000
MORE = 2_000_000
"""Bytes that the process may grow by: two write buffers, two reads, and what the allocator keeps."""

GET = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoesifProxy]:
    with start(upstream.url, tmp_path_factory.mktemp("events")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def secured(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoesifProxy]:
    folder = tmp_path_factory.mktemp("secured")
    with start(upstream.url, folder, "--tls-cert", str(make_pem(folder))) as proxy:
        yield proxy


@pytest.fixture(params=[None, trusting()], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    chosen: ssl.SSLContext | None = request.param
    return chosen


@pytest.fixture
def either(tls: ssl.SSLContext | None, secured: MoesifProxy, proxy: MoesifProxy) -> MoesifProxy:
    """The proxy for clients with this `tls`."""
    return proxy if tls is None else secured


def start(upstream: str, folder: Path, *more: str) -> MoesifProxy:
    """With the capture, without which bodies are not streamed."""
    return MoesifProxy(upstream, {"moesif_engine": "fast", "moesif_sink_file": str(folder / "events")}, *more)


def with_addon(upstream: ScriptedUpstream, folder: Path, addon: str) -> MoesifProxy:
    """Without the capture."""
    given: dict[str, Option] = {"moesif_engine": "fast", "moesif_enabled": False}
    return MoesifProxy(upstream.url, given, *scripted(folder, addon))


def sends_much(sent: threading.Event) -> Handler:
    """An answer of `LARGE` bytes; `sent` is set when all of it has been taken."""

    def send_much(_request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        for _ in range(LARGE // 1_000_000):
            connection.send(b"x" * 1_000_000)
        sent.set()

    return send_much


def test_a_slow_reader_is_waited_for_by_the_upstream(
    tls: ssl.SSLContext | None, either: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    sent = threading.Event()
    upstream.answer("/large", sends_much(sent))
    with Client(either.port, tls=tls) as client:
        assert client.exchange("GET", "/warm-up") is not None
        before = either.memory()
        client.send(GET % b"/large")
        assert client.read_head() is not None
        assert not sent.wait(1.0)
        assert either.memory() - before < MORE
        assert len(client.stream.read(LARGE)) == LARGE
    assert sent.wait(5)


def test_a_slow_upstream_is_waited_for_by_the_client(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, start(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path) as slow:
        before = slow.memory()
        with Client(slow.port) as client:
            client.sock.settimeout(1.0)
            head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % LARGE
            with pytest.raises(TimeoutError):
                client.send(head, b"x" * LARGE)
            assert slow.memory() - before < MORE


def test_requests_ahead_of_their_turn_are_answered_in_order(proxy: MoesifProxy, upstream: ScriptedUpstream) -> None:
    def name(request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(request.path), request.path.encode()))

    paths = [f"/in-order/{number}" for number in range(200)]
    for path in paths:
        upstream.answer(path, name)
    with Client(proxy.port) as client:
        asking = threading.Thread(target=client.send, args=[GET % path.encode() for path in paths])
        asking.start()
        answers = [client.read_response() for _ in paths]
        asking.join()
    assert [answer.body.decode() for answer in answers if answer is not None] == paths


def test_two_exchanges_never_share_a_connection_at_a_time(proxy: MoesifProxy, upstream: ScriptedUpstream) -> None:
    arrived = threading.Barrier(5)

    def wait_for_all(request: RawRequest, connection: Connection) -> None:
        arrived.wait(10)
        plain(request, connection)

    upstream.answer("/together", wait_for_all)
    answers: list[int] = []

    def ask() -> None:
        answer = exchange(proxy.port, "GET", "/together")
        answers.append(answer.status if answer is not None else 0)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 5


STRANGE = {
    "more than it announced": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
    "that it closes": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_connection_with_a_strange_end_is_never_used_again(
    kind: str, proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/strange", lambda _request, connection: connection.send(STRANGE[kind]))
    answer = exchange(proxy.port, "GET", "/strange")
    assert answer is not None
    assert answer.body == b"ok"
    following = exchange(proxy.port, "GET", "/following")
    assert following is not None
    assert following.status == 200
    assert following.head.count(b"HTTP/1.1") == 1


def test_an_upgrade_after_other_requests_is_handed_over(proxy: MoesifProxy, upstream: ScriptedUpstream) -> None:
    with Client(proxy.port) as client:
        client.send(GET % b"/first")
        first = client.read_response()
        client.send(b"GET /second HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\n\r\n")
        second = client.read_response()
    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (200, 200)


def test_no_bytes_make_it_stumble(proxy: MoesifProxy) -> None:
    """Whatever comes, in whatever pieces: it goes on serving, and nothing escapes."""
    chance = random.Random(7)
    pieces = [
        b"GET / HTTP/1.1\r\n",
        b"Host: h\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Content-Length: 3\r\n",
        b"abc",
        b"0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\nhello\r\n",
        b"\x00",
        b"\xff" * 9,
        b"x" * 70_000,
        b"PRI * HTTP/2.0",
    ]
    for _ in range(150):
        with Client(proxy.port, timeout=5) as client:
            try:
                for _piece in range(chance.randint(1, 8)):
                    client.send(chance.choice(pieces))
                if chance.random() < 0.3:
                    client.reset()
            except OSError:
                pass
    answer = exchange(proxy.port, "GET", "/still-there")
    assert answer is not None
    assert answer.status == 200
    assert "crashed" not in proxy.output
    assert "Traceback" not in proxy.output


def test_many_idle_connections_take_little_memory(proxy: MoesifProxy) -> None:
    before = proxy.memory()
    clients = [Client(proxy.port) for _ in range(400)]
    try:
        assert exchange(proxy.port, "GET", "/beside-them") is not None
        assert proxy.memory() - before < 400 * 20_000
    finally:
        for client in clients:
            client.close()


SLOW_TO_CONNECT = """
import asyncio
import sys

def server_connected(data):
    sys.stdout.write("connected\\n")
    return asyncio.sleep(60)

def error(flow):
    sys.stdout.write(f"error {flow.error.msg}\\n")

def server_disconnected(data):
    sys.stdout.write("disconnected\\n")
"""


def test_a_client_that_leaves_while_a_connection_is_opened_leaves_none(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with with_addon(upstream, tmp_path, SLOW_TO_CONNECT) as proxy:
        with Client(proxy.port) as client:
            client.send(GET % b"/")
            proxy.wait_for_output("connected")
            client.reset()
        proxy.wait_for_output("error Client disconnected.")
        proxy.wait_for_output("disconnected")


def test_a_host_that_is_none_is_a_502(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with with_addon(upstream, tmp_path, "def request(flow):\n    flow.request.host = 'x' * 70\n") as proxy:
        answer = exchange(proxy.port, "GET", "/")
        assert answer is not None
        assert answer.status == 502


def test_a_large_body_that_is_handed_over_arrives_in_order(proxy: MoesifProxy, upstream: ScriptedUpstream) -> None:
    body = random.Random(7).randbytes(5_000_000)
    head = b"POST /handed HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    for _ in range(5):
        with Client(proxy.port) as client:
            client.send(head + body)
            answer = client.read_response()
        assert answer is not None
        assert answer.status == 200
        assert upstream.requests()[-1].body == body


def test_a_client_that_has_not_read_before_a_hand_over_holds_up_the_upstream(
    proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    sent = threading.Event()
    upstream.answer("/medium", b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 8_000_000)
    upstream.answer("/much", sends_much(sent))
    assert exchange(proxy.port, "GET", "/warm-up") is not None
    before = proxy.memory()
    with Client(proxy.port) as client:
        client.send(GET % b"/medium" + b"GET /much HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\n\r\n")
        assert client.read_head() is not None
        assert len(client.stream.read(8_000_000)) == 8_000_000
        assert client.read_head() is not None
        assert not sent.wait(1.0)
        assert proxy.memory() - before < MORE
        assert len(client.stream.read(LARGE)) == LARGE
    assert sent.wait(5)


@pytest.mark.parametrize("scheme", ["NTLM TlRMTVNTUAAB", "Negotiate YIIB", "ntlm x"])
def test_a_connection_that_a_client_authenticates_is_its_own(
    scheme: str, proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    def name(_request: RawRequest, connection: Connection) -> None:
        body = b"%d" % id(connection)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    upstream.answer("/connection", name)
    with Client(proxy.port) as one, Client(proxy.port) as other:
        authenticated = [
            one.exchange("GET", "/connection", [("Authorization", scheme)]),
            one.exchange("GET", "/connection"),
        ]
        others = [other.exchange("GET", "/connection") for _ in range(3)]
    assert len({answer.body for answer in authenticated if answer is not None}) == 1
    assert authenticated[0] is not None
    assert authenticated[0].body not in {answer.body for answer in others if answer is not None}


STUCK = """
import sys

def error(flow):
    sys.stdout.write(f"error {flow.request.path} {flow.error.msg} {flow.response.status_code}\\n")
"""


def test_a_client_that_never_reads_its_answer_is_let_go(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.answer("/stuck", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + b"x" * LARGE)
    more = (*scripted(tmp_path, STUCK), "--set", "tcp_timeout=2")
    with start(upstream.url, tmp_path, *more) as proxy, Client(proxy.port) as client:
        client.send(GET % b"/stuck")
        proxy.wait_for_output("error /stuck Client disconnected. 200")


OWN_ANSWER = """
from mitmproxy import http

def request(flow):
    if flow.request.path == "/own":
        flow.response = http.Response.make(int(flow.request.headers["X-Status"]), b"content")
"""


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_addons_answer_that_has_no_body_is_sent_without_one(
    method: str, status: int, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with with_addon(upstream, tmp_path, OWN_ANSWER) as proxy, Client(proxy.port) as client:
        first = client.exchange(method, "/own", [("X-Status", str(status))])
        second = client.exchange("GET", "/")
    assert first is not None
    assert second is not None
    assert (first.status, second.body) == (status, b'{"ok": true}')
    assert second.head.startswith(b"HTTP/1.1 200")


OF_OTHER_LENGTHS = """
from mitmproxy import http

def requestheaders(flow):
    if flow.request.path == "/longer":
        flow.request.stream = lambda data: data and data + b"GET /hidden HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n"
    if flow.request.path == "/unannounced":
        del flow.request.headers["Content-Length"]
    if flow.request.path == "/announced-twice":
        flow.request.headers.add("Content-Length", "99")

def responseheaders(flow):
    if flow.request.path == "/longer-answer":
        flow.response.stream = lambda data: data * 2
    if flow.request.path == "/shorter-answer":
        flow.response.stream = lambda data: data[:1]

def response(flow):
    if flow.request.path == "/saved":
        flow.response = http.Response.make(200, b"saved")
        flow.response.http_version = "HTTP/2.0"
"""


@pytest.fixture(scope="module")
def changing(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MoesifProxy]:
    with with_addon(upstream, tmp_path_factory.mktemp("changing"), OF_OTHER_LENGTHS) as proxy:
        yield proxy


@pytest.mark.parametrize("path", ["/longer", "/unannounced", "/announced-twice"])
def test_a_request_that_an_addon_made_longer_than_it_says_is_the_last_on_its_connection(
    path: str, changing: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    used: dict[str, Connection] = {}

    def note(request: RawRequest, connection: Connection) -> None:
        used[request.path] = connection
        plain(request, connection)

    def note_head(request: RawRequest, connection: Connection) -> bool:
        if request.path == "/announced-twice":  # whose body nobody knows the end of
            note(request, connection)
            connection.wait(asked)
            return True
        return False

    def wait(_request: RawRequest, connection: Connection) -> None:
        connection.wait(asked)

    asked = threading.Event()
    upstream.on_head = note_head
    upstream.answer("/hidden", wait)
    for each in (path, "/of-another"):
        upstream.answer(each, note)
    with Client(changing.port) as client, Client(changing.port) as other:
        assert client.exchange("POST", path, body=b"hello") is not None
        answer = other.exchange("GET", "/of-another")
        asked.set()
    assert answer is not None
    assert answer.status == 200
    assert used[path] is not used["/of-another"]


@pytest.mark.parametrize(("path", "body"), [("/longer-answer", b'{"ok": true}' * 2), ("/shorter-answer", b"{")])
def test_an_answer_that_an_addon_made_another_than_it_says_is_the_last_on_its_connection(
    path: str, body: bytes, changing: MoesifProxy
) -> None:
    with Client(changing.port) as client:
        client.send(GET % path.encode() + GET % b"/next")
        head = client.read_head()
        assert head is not None
        assert client.stream.read() == body


def test_an_addons_answer_of_another_version_goes_over_this_one(changing: MoesifProxy) -> None:
    answer = exchange(changing.port, "GET", "/saved")
    assert answer is not None
    assert answer.head.startswith(b"HTTP/1.1 200")
    assert answer.body == b"saved"


def test_an_answer_behind_which_a_connection_ends_comes_whole_to_a_client_that_sends_on(
    tls: ssl.SSLContext | None, either: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    """What a peer has not read is answered with a reset: this would overtake the rest of the answer."""
    size = 3_000_000
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    upstream.answer("/last", lambda _request, connection: connection.send(last))
    with Client(either.port, tls=tls) as client:
        client.send(GET % b"/last")
        asking = threading.Thread(target=send_on, args=[client, GET % b"/more" * 5_000])
        asking.start()
        head = client.read_head()
        assert head is not None
        assert len(client.stream.read(size)) == size
        asking.join()


def test_a_client_that_sends_more_before_it_reads_its_last_answer_gets_it(
    tls: ssl.SSLContext | None, either: MoesifProxy
) -> None:
    with Client(either.port, tls=tls) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert select.select([client.sock], [], [], 10)[0]
        for _ in range(3):
            client.send(GET % b"/more")
            with Client(either.port, tls=tls) as other:  # whose answer comes behind what the proxy says to that
                assert other.exchange("GET", "/") is not None
        answer = client.read_response()
        assert answer is not None
        assert answer.status == 200


def send_on(client: Client, data: bytes) -> None:
    with suppress(OSError):
        client.send(data)


def test_a_client_that_sends_on_and_on_behind_its_last_answer_is_cut_off(
    proxy: MoesifProxy, upstream: ScriptedUpstream
) -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    upstream.answer("/cut-off", lambda _request, connection: connection.send(last))
    with Client(proxy.port) as client:
        client.send(GET % b"/cut-off" + b"GET /never-ends")
        assert client.stream.read().endswith(b"ok")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            client.send(*itertools.repeat(b"x" * 100_000, 1_000_000))
