"""Streams stay streams: large bodies cost no memory, and the first byte leaves when it arrives."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.support.addon import addon_options
from tests.support.client import Client
from tests.support.collector import ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[..., Mitmdump]

PIECE = b"x" * 1_000_000
PIECES = 200
MEMORY = 30_000_000


def test_a_large_download_costs_no_memory(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    def answer(_request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(PIECE) * PIECES))
        for _ in range(PIECES):
            connection.send(PIECE)

    upstream.answer("/large", answer)
    proxy = mitmdump(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
        before = proxy.memory()
        client.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        head = client.read_head()
        assert head is not None
        received = 0
        while received < len(PIECE) * PIECES:
            received += len(client.stream.read(len(PIECE)))
    assert proxy.peak_memory() - before < MEMORY
    events = collector.wait_for(2)
    assert events[1]["metadata"]["body_omitted"] == {"response": "too_large"}


def test_a_large_upload_costs_no_memory(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    received = [0]

    def swallow(request: RawRequest, connection: Connection) -> bool:
        if request.path != "/large":
            return False
        while received[0] < len(PIECE) * PIECES:
            received[0] += len(connection.stream.read1(65_536))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        return True

    upstream.on_head = swallow
    proxy = mitmdump(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.exchange("GET", "/warm-up")
        before = proxy.memory()
        client.send(b"POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (len(PIECE) * PIECES))
        for _ in range(PIECES):
            client.send(PIECE)
        answer = client.read_response("POST")
    assert answer is not None
    assert received[0] == len(PIECE) * PIECES
    assert proxy.peak_memory() - before < MEMORY
    events = collector.wait_for(2)
    assert events[1]["metadata"]["body_omitted"] == {"request": "too_large"}


def test_server_sent_events_arrive_one_by_one(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """The upstream sends the next event only once the client has read the one before."""
    read = threading.Semaphore(0)

    def answer(_request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(20):
            connection.send(b"data: %d\n\n" % number)
            assert read.acquire(timeout=10)
        connection.close()

    upstream.answer("/sse", answer)
    proxy = mitmdump(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        client.send(b"GET /sse HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.read_head() is not None
        for number in range(20):
            assert client.stream.readline() == b"data: %d\n" % number
            assert client.stream.readline() == b"\n"
            read.release()
        assert client.stream.read() == b""
    (event,) = collector.wait_for(1)
    assert event["response"]["transfer_encoding"] == "base64"
