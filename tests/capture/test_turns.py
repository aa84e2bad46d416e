"""One connection that sends very many small frames does not keep others waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import hyperframe.frame
import pytest
from mitmproxy.connection import Client as Connection
from mitmproxy.proxy.events import DataReceived

from mitmproxy_moesif.capture.turns import LARGEST, SMALLEST, TURN, Share
from tests.support.addon import addon_options
from tests.support.client import Client
from tests.support.collector import Event, ScriptedCollector
from tests.support.h2 import H2Client, H2Message, get, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option
from tests.support.upstream import Connection as Upstreams
from tests.support.upstream import RawRequest, ScriptedUpstream

FRAMES = 30_000
MANY = 12
"""The least number of exchanges answered during a flood; without turns, it was one to six."""

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
    connection.send(UPGRADED + ANSWERED * FRAMES)
    connection.close()


def read_to_end(client: Client) -> None:
    with suppress(OSError):
        while client.stream.read1(65_536):
            pass


def answered_during(flood: Callable[[], object], exchange: Callable[[], object]) -> int:
    """How many exchanges are answered one after the other until all that the flood sends was handled."""
    answered = 0
    thread = threading.Thread(target=flood)
    thread.start()
    while thread.is_alive():
        exchange()
        answered += 1
    return answered


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

        def flood() -> None:
            client.send(frame * FRAMES + CLOSE)
            read_to_end(client)

        assert answered_during(flood, lambda: other.exchange("GET", "/")) >= MANY


def test_others_are_served_while_an_upstream_floods_a_websocket(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/ws", flood)
    proxy = moesif_proxy(upstream.url, addon_options(collector))
    with Client(proxy.port) as client, Client(proxy.port) as other:
        other.exchange("GET", "/warm-up")
        client.send(UPGRADE)
        assert answered_during(lambda: read_to_end(client), lambda: other.exchange("GET", "/")) >= MANY


def test_others_are_served_while_a_client_floods_http2(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    update = hyperframe.frame.WindowUpdateFrame(0, window_increment=1).serialize()
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
        H2Client(proxy.port) as other,
    ):
        other.exchange("GET", "/warm-up")
        client.exchange("GET", "/warm-up")

        def flood() -> None:
            client.sock.sendall(update * 15 * FRAMES)
            client.exchange("GET", "/behind")

        assert answered_during(flood, lambda: other.exchange("GET", "/")) >= MANY


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
    with Client(proxy.port) as other:
        other.exchange("GET", "/warm-up")
        for _ in range(3):
            with Client(proxy.port) as client:

                def flood(client: Client = client) -> None:
                    client.send(UPGRADE + MESSAGE * 10_000 + CLOSE)
                    read_to_end(client)

                assert answered_during(flood, lambda: other.exchange("GET", "/")) >= MANY
    collector.wait_for(lambda had: len(upgrades(had.events())) == 3)
    counts = [event["metadata"]["websocket"] for event in upgrades(collector.events())]
    assert [(each["messages_from_client"], each["close_code"]) for each in counts] == [(10_000, 1000)] * 3
    assert [len(each) for each in received] == [len(MESSAGE * 10_000 + CLOSE)] * 3


def upgrades(events: list[Event]) -> list[Event]:
    return [event for event in events if event["response"]["status"] == 101]
