"""One connection that sends very many small frames does not keep others waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hyperframe.frame
import pytest
from mitmproxy.connection import Client as Connection
from mitmproxy.proxy.events import DataReceived

from mitmproxy_moesif.capture.turns import LARGEST, SMALLEST, TURN, Share
from tests.support.addon import addon_options
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, H2Message, get, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option
from tests.support.upstream import Connection as Upstreams
from tests.support.upstream import RawRequest, ScriptedUpstream

SECONDS = 1.0
PATIENCE = 0.5
"""Most seconds that an exchange may take meanwhile; it was as long as the flood itself."""

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
MESSAGE, PING = (bytes([0x80 | opcode, 0x80, 0, 0, 0, 0]) for opcode in (2, 9))
CLOSE = bytes([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8])
ANSWERED = bytes([0x82, 0])


def swallow(_request: RawRequest, connection: Upstreams) -> None:
    connection.send(UPGRADED)
    while connection.stream.read1(65_536):
        pass


def flood(_request: RawRequest, connection: Upstreams) -> None:
    connection.send(UPGRADED)
    end = time.monotonic() + SECONDS
    with suppress(OSError):
        while time.monotonic() < end:
            connection.send(ANSWERED * 10_000)
    connection.close()


def read_to_end(client: Client) -> None:
    with suppress(OSError):
        while client.stream.read1(65_536):
            pass


@contextmanager
def sending(send: Callable[[bytes], None], data: bytes) -> Iterator[None]:
    """Sends it for a second, again and again."""
    end = time.monotonic() + SECONDS

    def go_on() -> None:
        with suppress(OSError):
            while time.monotonic() < end:
                send(data)

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    thread.join()


def slowest(exchange: Callable[[], object]) -> float:
    """The longest that an exchange takes within a second."""
    slow, end = 0.0, time.monotonic() + SECONDS
    while (begun := time.monotonic()) < end:
        exchange()
        slow = max(slow, time.monotonic() - begun)
        time.sleep(0.01)
    return slow


@pytest.mark.parametrize("frame", [MESSAGE, PING], ids=["messages", "pings"])
@pytest.mark.parametrize("start", ["mitmdump", "moesif_proxy"])
def test_others_are_served_while_a_client_floods_a_websocket(
    start: str, frame: bytes, request: pytest.FixtureRequest, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/ws", swallow)
    proxy: Mitmdump = request.getfixturevalue(start)(upstream.url, addon_options(collector))
    with Client(proxy.port) as client, Client(proxy.port) as other:
        other.exchange("GET", "/warm-up")
        client.send(UPGRADE)
        assert client.read_head() is not None
        with sending(client.send, frame * 10_000):
            assert slowest(lambda: other.exchange("GET", "/")) < PATIENCE


def test_others_are_served_while_an_upstream_floods_a_websocket(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/ws", flood)
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    with Client(proxy.port) as client, Client(proxy.port) as other:
        other.exchange("GET", "/warm-up")
        client.send(UPGRADE)
        reading = threading.Thread(target=read_to_end, args=[client])
        reading.start()
        slow = slowest(lambda: other.exchange("GET", "/"))
        client.sock.shutdown(socket.SHUT_RDWR)  # else it would read on all that waits in between
        reading.join()
        assert slow < PATIENCE


def test_others_are_served_while_a_client_floods_http2(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    settings = hyperframe.frame.SettingsFrame(0, settings={4: 65_536}).serialize()
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
        H2Client(proxy.port) as other,
    ):
        other.exchange("GET", "/warm-up")
        client.exchange("GET", "/warm-up")
        with sending(client.sock.sendall, settings * 5_000):
            assert slowest(lambda: other.exchange("GET", "/")) < PATIENCE


def test_what_is_handled_in_pieces_arrives_whole(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    bodies = [bytes([number]) * 100_000 for number in range(10)]
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        posts = [H2Message([(":method", "POST"), *get("/").headers[1:]], body) for body in bodies]
        assert {answer.status for answer in client.exchange_all(posts)} == {200}
    assert sorted(each.body for each in upstream.requests()) == bodies


def test_a_share_adapts_to_how_long_it_takes() -> None:
    share = Share()
    connection = Connection(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0.0)
    for _ in range(20):
        share.count(2 * TURN)
    assert share.size == SMALLEST
    first = share.first(DataReceived(connection, bytes(SMALLEST) + b"rest"))
    rest = share.next(connection)
    assert rest is not None
    assert (first.data, rest.data, share.next(connection)) == (bytes(SMALLEST), b"rest", None)
    for _ in range(20):
        share.count(0.0)
    assert share.size == LARGEST
    share.encrypted.add(connection)
    more = share.next(connection)
    assert more is not None
    assert more.data == b""
    assert share.next(connection) is None


def test_others_are_served_while_clients_send_much_with_their_upgrade(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    received: list[bytes] = []

    def collect(_request: RawRequest, connection: Upstreams) -> None:
        connection.send(UPGRADED)
        received.append(b"".join(iter(lambda: connection.stream.read1(65_536), b"")))

    upstream.answer("/ws", collect)
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    slow = 0.0
    with Client(proxy.port) as other:
        other.exchange("GET", "/warm-up")
        for _ in range(3):
            with Client(proxy.port) as client:
                client.send(UPGRADE + MESSAGE * 10_000 + CLOSE)
                assert client.read_head() is not None
                slow = max(slow, elapsed(lambda: other.exchange("GET", "/")))
                client.stream.read()
        assert slow < PATIENCE
    counts = [event["metadata"]["websocket"] for event in collector.wait_for(7) if event["response"]["status"] == 101]
    assert [(each["messages_from_client"], each["close_code"]) for each in counts] == [(10_000, 1000)] * 3
    assert [len(each) for each in received] == [len(MESSAGE * 10_000 + CLOSE)] * 3


def elapsed(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun
