"""The end of `moesif-proxy`: `--drain-timeout`, an end that comes early, and what was captured till then."""

from __future__ import annotations

import signal
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proxy.test_proxy import Slow, wait_until_refused
from tests.support import wire
from tests.support.addon import addon_options, exit_counts, only_event
from tests.support.client import Client, encode_request, trusting
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, get, make_pem
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

LARGE = 20_000_000
"""Bytes, more than the kernel takes of an answer."""

Start = Callable[..., MoesifProxy]

# Sends a request through the proxy as soon as it listens, and ends the proxy as soon as that is answered.
HASTY = textwrap.dedent("""
    import asyncio
    from mitmproxy import ctx

    async def connect(port):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0)

    async def ask():
        host, port, *_ = ctx.master.addons.get("proxyserver").listen_addrs()[0]
        reader, writer = await connect(port)
        writer.write(b"GET /early HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
        await reader.read()
        writer.close()
        ctx.master.shutdown()

    def running():
        globals()["task"] = asyncio.get_running_loop().create_task(ask())
""")


@pytest.fixture
def hasty(tmp_path: Path) -> Path:
    script = tmp_path / "hasty.py"
    script.write_text(HASTY)
    return script


def test_what_was_captured_before_the_start_was_over_is_delivered(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, hasty: Path
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "-s", str(hasty), wait=False)
    assert proxy.wait_exit() == 0
    assert only_event(collector)["request"]["uri"].endswith("/early")
    assert exit_counts(proxy.output)["causes"] == {}


def test_what_was_captured_before_the_start_was_over_waits_on_disk(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, hasty: Path, tmp_path: Path
) -> None:
    collector.refuse()
    options = addon_options(collector, shutdown_timeout=300)
    proxy = moesif_proxy(upstream.url, options, "-s", str(hasty), folder=tmp_path, wait=False)
    assert proxy.wait_exit() == 0
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["waiting"], counts["dropped"]) == (1, 1, 0)
    collector.listen()
    moesif_proxy(upstream.url, addon_options(collector), folder=tmp_path)
    assert only_event(collector)["request"]["uri"].endswith("/early")


def test_the_same_under_mitmdump(
    mitmdump: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream, hasty: Path
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector), extra_args=["-s", str(hasty)], wait=False)
    assert proxy.wait_exit() == 0
    assert only_event(collector)["request"]["uri"].endswith("/early")
    assert exit_counts(proxy.output)["delivered"] == 1


# --- the drain timeout -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_what_takes_longer_than_the_drain_timeout_is_cut_and_captured(
    workers: int, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/slow", Slow())
    # So long that the proxy would not end in time if exchanges were waited for in that time too.
    options = addon_options(collector, shutdown_timeout=100_000)
    proxy = moesif_proxy(upstream.url, options, "--drain-timeout", "0.2", workers=workers)
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        proxy.send_signal(signal.SIGTERM)
        answer = client.read_response()
    assert answer is None
    assert proxy.wait_exit() == 0
    event = only_event(collector)
    assert event["metadata"]["error"] == "unfinished"
    assert "response" not in event
    assert exit_counts(proxy.output)["delivered"] == 1


HOLDS_ONE = textwrap.dedent("""
    import asyncio
    import sys

    told = []

    async def client_connected(client):
        told.append(client)
        if len(told) == 2:
            sys.stdout.write("held\\n")
            await asyncio.Event().wait()
""")


@pytest.mark.parametrize(("engine", "secured"), [("fast", False), ("fast", True), ("mitmproxy", False)])
def test_exchanges_end_while_a_hook_is_told_of_a_client(
    engine: str,
    secured: bool,
    moesif_proxy: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    slow = Slow()
    upstream.answer("/slow", slow)
    more = ["--tls-cert", str(make_pem(tmp_path))] if secured else []
    proxy = moesif_proxy(upstream.url, addon_options(collector, engine=engine), *scripted(tmp_path, HOLDS_ONE), *more)
    with Client(proxy.port, tls=trusting() if secured else None) as busy, Client(proxy.port) as held:
        busy.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        proxy.wait_for_output("held\n")
        proxy.send_signal(signal.SIGTERM)
        assert held.stream.read() == b""
        slow.go.set()
        answer = busy.read_response()
    assert answer is not None
    assert answer.status == 200
    assert proxy.wait_exit() == 0
    assert "Traceback" not in proxy.output
    assert exit_counts(proxy.output)["delivered"] == 1


def test_a_body_that_takes_longer_is_cut_and_its_event_has_what_was_passed_on(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/trickle", Trickle())
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--drain-timeout", "0.2")
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/trickle"))
        assert client.sock.recv(8, 0x02).startswith(b"HTTP/1.1")  # MSG_PEEK: the answer has begun
        proxy.send_signal(signal.SIGTERM)
        assert client.stream.read().endswith(b"\r\n\r\nhalf")
    assert proxy.wait_exit() == 0
    event = only_event(collector)
    assert (event["metadata"]["error"], event["response"]["status"]) == ("unfinished", 200)


class Trickle:
    """Answers a first piece at once, and the second when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, _request: RawRequest, connection: Connection) -> None:
        connection.send(wire.response(200, [("Content-Length", "8")], b"", reason="OK") + b"half")
        connection.wait(self.go)
        connection.send(b"half")


@pytest.mark.parametrize("engine", ["fast", "mitmproxy"])
def test_an_answer_that_has_not_gone_out_reaches_a_slow_reader(
    engine: str, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/large", wire.response(200, [], bytes(LARGE)))
    options = addon_options(collector, engine=engine, stream=False)
    proxy = moesif_proxy(upstream.url, options, "--drain-timeout", "20")
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/large"))
        assert client.read_head() is not None
        proxy.send_signal(signal.SIGTERM)
        wait_until_refused(proxy.port)
        proxy.wait_for_output("waiting for 1 request")
        assert len(client.stream.read(LARGE)) == LARGE
    assert proxy.wait_exit() == 0


def test_what_an_http2_client_has_no_room_for_yet_reaches_it(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """All of the answer has come from the upstream: it waits for the client's windows alone."""
    upstream.answer("/large", wire.response(200, [], bytes(500_000)))
    options = {**addon_options(collector), "http2": True}
    proxy = moesif_proxy(upstream.url, options, "--drain-timeout", "20", "--tls-cert", str(make_pem(tmp_path)))
    with H2Client(proxy.port) as client:
        streams = client.begin([get("/large")])
        collector.wait_for(1)
        proxy.send_signal(signal.SIGTERM)
        proxy.wait_for_output("waiting for 1 request")
        (answer,) = client.finish(streams)
    assert len(answer.body) == 500_000
    assert proxy.wait_exit() == 0


def test_a_body_under_way_is_passed_on_to_its_end(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    trickle = Trickle()
    upstream.answer("/trickle", trickle)
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--drain-timeout", "30")
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/trickle"))
        assert client.sock.recv(8, 0x02).startswith(b"HTTP/1.1")  # MSG_PEEK: the answer has begun
        proxy.send_signal(signal.SIGTERM)
        wait_until_refused(proxy.port)
        trickle.go.set()
        answer = client.read_response()
    assert answer is not None
    assert answer.body == b"halfhalf"
    assert proxy.wait_exit() == 0


def test_sighup_while_it_ends_changes_nothing(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    slow = Slow()
    upstream.answer("/slow", slow)
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--drain-timeout", "30")
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/slow"))
        upstream.wait_for(1)
        proxy.send_signal(signal.SIGTERM)
        wait_until_refused(proxy.port)
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_output("INFO moesif-proxy: the configuration is not read again: the proxy is about to end")
        wait_until_refused(proxy.port)
        slow.go.set()
        answer = client.read_response()
    assert answer is not None
    assert answer.body == b"late"
    assert proxy.wait_exit() == 0
    assert exit_counts(proxy.output)["delivered"] == 1


def websocket(_request: RawRequest, connection: Connection) -> None:
    head = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)]
    connection.send(b"HTTP/1.1 101 Switching Protocols\r\n" + wire.encode_headers(head) + b"\r\n", b"\x81\x02hi")
    connection.hang()


KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455."""


def test_a_websocket_is_cut_at_the_drain_timeout_and_captured(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/ws", websocket)
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--drain-timeout", "0.2")
    asks = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Key", KEY)]
    with Client(proxy.port) as client:
        client.send(encode_request("GET", "/ws", [*asks, ("Sec-WebSocket-Version", "13")]))
        head = client.read_head()
        assert head is not None
        assert (head.status, client.stream.read(4)) == (101, b"\x81\x02hi")
        proxy.send_signal(signal.SIGTERM)
        assert client.stream.read() == b""
    assert proxy.wait_exit() == 0
    assert only_event(collector)["metadata"]["websocket"]["messages_from_server"] == 1
