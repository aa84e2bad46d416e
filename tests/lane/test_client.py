"""What becomes of a client that sends no more. All else of a client's connection: test_same.py and test_limits.py."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import wire
from tests.support.client import Client
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"


def start(upstream: ScriptedUpstream, folder: Path, *, streams: bool = True) -> MoesifProxy:
    return MoesifProxy(upstream.url, {"moesif_sink_file": str(folder / "events"), "moesif_stream": streams})


def events(folder: Path) -> list[dict[str, Any]]:
    file = folder / "events"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("streams", [True, False])
def test_it_gets_the_answers_to_its_whole_requests(streams: bool, tmp_path: Path) -> None:
    with (
        ScriptedUpstream() as upstream,
        start(upstream, tmp_path, streams=streams) as proxy,
        Client(proxy.port) as client,
    ):
        client.send(GET + POST)
        client.sock.shutdown(socket.SHUT_WR)
        answers = [client.read_response(), client.read_response("POST")]
        assert [answer and answer.status for answer in answers] == [200, 200]
        assert client.stream.read() == b""
        assert [request.body for request in upstream.requests()] == [b"", b"abc"]
        assert proxy.stop() == 0
    assert [event["response"]["status"] for event in events(tmp_path)] == [200, 200]


@pytest.mark.parametrize("rest", [b"GET / HT", POST[:-1]])
def test_of_a_part_of_a_request_it_is_gone(rest: bytes, tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, start(upstream, tmp_path) as proxy, Client(proxy.port) as client:
        client.send(rest)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.stream.read() == b""
        assert proxy.stop() == 0
    assert [event["metadata"]["error"] for event in events(tmp_path)] == ["client_disconnected"] * (rest != b"GET / HT")


def test_a_switch_of_protocols_that_it_asked_for_ahead_is_handed_over(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, start(upstream, tmp_path) as proxy, Client(proxy.port) as client:
        client.send(GET + GET.replace(b"Host", b"Upgrade: x\r\nHost"))
        client.sock.shutdown(socket.SHUT_WR)
        answer = client.read_response()
        assert answer is not None
        assert answer.status == 200
        client.stream.read()  # its end: mitmproxy's layers take it for gone


@pytest.mark.parametrize("is_answered", [True, False])
def test_one_that_has_left_while_it_waited_is_noticed(is_answered: bool, tmp_path: Path) -> None:
    """At what is written to it, or in a few seconds where nothing is."""
    has_left = threading.Event()

    def respond(_request: RawRequest, connection: Connection) -> None:
        if is_answered:
            connection.wait(has_left)
            connection.send(wire.response(200, [], b"late"))
        else:
            connection.hang()

    with ScriptedUpstream() as upstream, start(upstream, tmp_path) as proxy:
        upstream.answer("/", respond)
        with Client(proxy.port) as client:
            client.send(GET)
            upstream.wait_for(1)
        has_left.set()
        deadline = time.monotonic() + 30
        while not events(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [event["metadata"]["error"] for event in events(tmp_path)] == ["client_disconnected"]
