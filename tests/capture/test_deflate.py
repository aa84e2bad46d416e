"""Compressed WebSockets: all that RFC 7692 allows arrives as it was sent."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader

import pytest

from tests.support.addon import addon_options
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., MoesifProxy]

CONTINUATION, TEXT, CLOSE, PING = 0, 1, 8, 9
TAIL = b"\x00\x00\xff\xff"
LONG = b"a long text, the start of which tells nothing of its end; " * 400


def frame(opcode: int, data: bytes, *, compressed: bool = False, fin: bool = True) -> bytes:
    """A frame of a client, with a mask that changes nothing."""
    assert len(data) < 65_536
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
    return bytes([fin << 7 | compressed << 6 | opcode]) + size + bytes(4) + data


def compressed(data: bytes) -> bytes:
    maker = zlib.compressobj(wbits=-9)
    return (maker.compress(data) + maker.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def last(data: bytes) -> bytes:
    """A block that is marked as the last one (RFC 7692, 7.2.3.4)."""
    maker = zlib.compressobj(wbits=-9)
    return maker.compress(data) + maker.flush() + b"\x00"


def frames(stream: BufferedReader) -> Iterator[tuple[int, int, bytes]]:
    """First byte, opcode and data of each frame, until the end or a close."""
    while len(head := stream.read(2)) == 2:
        size = head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(stream.read(2 if size == 126 else 8))
        mask = stream.read(4) if head[1] & 0x80 else bytes(4)
        data = stream.read(size)
        plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        yield head[0], head[0] & 0x0F, plain
        if head[0] & 0x0F == CLOSE:
            return


def texts(stream: BufferedReader) -> list[bytes]:
    """The messages, decompressed."""
    reader = zlib.decompressobj(wbits=-15)
    messages, data = [], b""
    for first, opcode, piece in frames(stream):
        if opcode in (TEXT, CONTINUATION):
            data += piece
            if first & 0x80:
                messages.append(reader.decompress(data + TAIL))
                data = b""
    return messages


def received(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, sent: bytes, agreed: str
) -> list[bytes]:
    """The messages that the upstream gets from what a client sends. Both ends then close."""
    got: list[bytes] = []
    done = threading.Event()

    def answer(_request: RawRequest, connection: Connection) -> None:
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\nSec-WebSocket-Extensions: " + agreed.encode() + b"\r\n\r\n"
        )
        got.extend(texts(connection.stream))
        done.set()
        connection.close()

    upstream.answer("/ws", answer)
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.send(
            b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        assert client.read_head() is not None
        client.send(sent + frame(CLOSE, b"\x03\xe8"))
        assert done.wait(20)
        client.stream.read()
    (event,) = collector.wait_for(1)
    assert event["metadata"]["websocket"]["messages_from_client"] == len(got)
    assert event["metadata"]["websocket"]["close_code"] == 1000
    return got


def test_a_ping_between_the_frames_of_a_message_changes_nothing(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    data = compressed(LONG)
    half = len(data) // 2
    sent = (
        frame(TEXT, data[:half], compressed=True, fin=False) + frame(PING, b"alive") + frame(CONTINUATION, data[half:])
    )
    assert received(moesif_proxy, collector, upstream, sent, "permessage-deflate") == [LONG]


def test_what_follows_a_last_block_is_read(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    sent = [b"one", b"two", LONG, b"three"]
    each = [last(b"one"), last(b"two"), last(LONG[:5])[:-1] + compressed(LONG[5:]), compressed(b"three")]
    agreed = "permessage-deflate; client_no_context_takeover"
    flow = b"".join(frame(TEXT, data, compressed=True) for data in each)
    assert received(moesif_proxy, collector, upstream, flow, agreed) == sent


@pytest.mark.parametrize(
    "agreed",
    [
        "permessage-deflate; server_max_window_bits=8; client_max_window_bits=8",
        'permessage-deflate; server_max_window_bits="10"',
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=none; server_max_window_bits=99",
        "permessage-deflate, permessage-deflate",
    ],
)
def test_whatever_the_upstream_agrees_to_messages_pass(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, agreed: str
) -> None:
    sent = frame(TEXT, compressed(LONG[:200]), compressed=True) + frame(TEXT, b"plain")
    assert received(moesif_proxy, collector, upstream, sent, agreed) == [LONG[:200], b"plain"]
