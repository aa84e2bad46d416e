"""WebSockets and other upgraded connections cost no memory, and arrive whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection as Frames
from wsproto.events import BytesMessage, CloseConnection, Message, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate

from mitmproxy_moesif.capture.upgrades import Messages
from tests.support.addon import addon_options
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., Mitmdump]

PIECE = b"x" * 1_000_000
PIECES = 120
MEMORY = 30_000_000


@pytest.fixture(params=["mitmdump", "moesif_proxy"])
def start(request: pytest.FixtureRequest) -> Start:
    started: Start = request.getfixturevalue(request.param)
    return started


class Peer:
    """The far end of a WebSocket: what came of each message, its frames joined."""

    def __init__(self, compressed: bool = False) -> None:
        self.compressed = compressed
        self.messages: list[int] = [0]
        self.closed = threading.Event()

    def __call__(self, _request: RawRequest, connection: Connection) -> None:
        extra = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if self.compressed else b""
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\n" + extra + b"\r\n"
        )
        frames = Frames(ConnectionType.SERVER, extensions(self.compressed))
        while data := connection.stream.read1(65_536):
            frames.receive_data(data)
            for event in frames.events():
                if isinstance(event, Message):
                    self.messages[-1] += len(event.data)
                    if event.message_finished:
                        self.messages.append(0)
                elif isinstance(event, CloseConnection):
                    self.closed.set()
                    connection.close()
                    return


def extensions(compressed: bool) -> list[Extension]:
    if not compressed:
        return []
    made = PerMessageDeflate()
    made.finalize("permessage-deflate")
    return [made]


def converse(port: int, messages: Iterator[Message[Any]], compressed: bool = False) -> None:
    with Client(port, timeout=60) as client:
        client.send(
            b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = client.read_head()
        assert answer is not None
        assert answer.status == 101
        frames = Frames(ConnectionType.CLIENT, extensions(compressed))
        for message in messages:
            client.send(frames.send(message))
        client.send(frames.send(CloseConnection(1000)))
        while client.stream.read(65_536):
            pass


CASES: dict[str, tuple[Callable[[], Iterator[Message[Any]]], list[int]]] = {
    "many messages": (lambda: (BytesMessage(PIECE) for _ in range(PIECES)), [len(PIECE)] * PIECES),
    "one message of many frames": (
        lambda: (BytesMessage(PIECE, message_finished=n == PIECES - 1) for n in range(PIECES)),
        [len(PIECE) * PIECES],
    ),
    "one frame": (lambda: iter([BytesMessage(PIECE * PIECES)]), [len(PIECE) * PIECES]),
    "text": (
        lambda: (TextMessage("é" * 400_000, message_finished=n == 99) for n in range(100)),
        [40_000_000],
    ),
    "very many small messages": (lambda: (BytesMessage(b"") for _ in range(30_000)), [0] * 30_000),
}


@pytest.mark.parametrize("name", CASES)
def test_a_websocket_costs_no_memory(
    name: str, start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    make, sizes = CASES[name]
    peer = Peer()
    upstream.answer("/ws", peer)
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
    before = proxy.memory()
    converse(proxy.port, make())
    assert peer.closed.wait(60)
    assert peer.messages[:-1] == sizes
    assert proxy.peak_memory() - before < MEMORY
    counts = collector.wait_for(2)[-1]["metadata"]["websocket"]
    assert (counts["messages_from_client"], counts["messages_from_server"]) == (len(sizes), 0)
    assert counts["close_code"] == 1000
    assert counts["bytes"] == sum(sizes) * (2 if name == "text" else 1)


def test_a_compressed_message_that_becomes_a_thousand_times_as_large_costs_no_memory(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    peer = Peer(compressed=True)
    upstream.answer("/ws", peer)
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
    before = proxy.memory()
    converse(proxy.port, iter([BytesMessage(bytes(100_000_000))]), compressed=True)
    assert peer.closed.wait(60)
    assert peer.messages[:-1] == [100_000_000]
    assert proxy.peak_memory() - before < MEMORY


def test_another_protocol_after_an_upgrade_costs_no_memory(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    def tunnel(_request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
        echoing = threading.Thread(target=connection.send, args=[PIECE] * PIECES)
        echoing.start()
        left = len(PIECE) * PIECES
        while left:
            left -= len(connection.stream.read1(65_536))
        echoing.join()
        connection.close()

    upstream.answer("/tunnel", tunnel)
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
    before = proxy.memory()
    with Client(proxy.port, timeout=60) as client:
        client.send(b"GET /tunnel HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
        assert client.read_head() is not None
        sending = threading.Thread(target=client.send, args=[PIECE] * PIECES)
        sending.start()
        received = 0
        while piece := client.stream.read(65_536):
            received += len(piece)
        sending.join()
    assert received == len(PIECE) * PIECES
    assert proxy.peak_memory() - before < MEMORY
    assert len(collector.wait_for(2)) == 2


class Content:
    def __init__(self, content: bytes, from_client: bool = True) -> None:
        self.content = content
        self.from_client = from_client


def test_messages_are_kept_up_to_the_limit_and_the_newest() -> None:
    made = [Content(b"%d" % number, number % 2 == 0) for number in range(10_000)]
    kept = Messages(5_000, made)
    assert 10 < len(kept) < 50
    assert kept[:5] == made[:5]
    assert kept[-1] is made[-1]
    assert (kept.from_client, kept.from_server) == (5_000, 5_000)
    assert list(Messages(0, made)) == [made[-1]]


def test_a_message_in_pieces_counts_once() -> None:
    messages = Messages(0)
    for continues in (True, True, False):
        messages.continues = continues
        messages.append(Content(b"abc"))
    assert (messages.from_client, messages.size) == (1, 9)
