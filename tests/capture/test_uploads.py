"""Back-pressure toward HTTP/2 clients whose requests wait for the upstream."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.support.addon import addon_options
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, H2Message, H2Upstream, get, make_pem, ok
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Option
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain

BODY = b"x" * 60_000_000
MEMORY = 25_000_000
MEANWHILE = 300
"""Exchanges, during which mitmproxy would have read all of the body."""


def post(path: str) -> H2Message:
    return H2Message([(":method", "POST"), *get(path).headers[1:]], BODY)


def test_a_stream_that_waits_for_a_connection_gets_no_further_room(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The five that its client has are taken; when they are free it goes on, and all of its body comes."""
    free = threading.Event()

    def hold(request: RawRequest, connection: Connection) -> None:
        connection.wait(free)
        plain(request, connection)

    upstream.answer("/hold", hold)
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
        H2Client(proxy.port) as other,
    ):
        assert client.exchange("GET", "/warm-up").status == 200
        held = client.begin([get("/hold")] * 5)
        upstream.wait_for(6)
        before = proxy.memory()
        streams = client.begin([post("/upload")])
        for _ in range(MEANWHILE):
            assert other.exchange("GET", "/meanwhile").status == 200
        free.set()
        assert [answer.status for answer in client.finish([*held, *streams])] == [200] * 6
        assert proxy.peak_memory() - before < MEMORY
    assert [len(request.body) for request in upstream.requests() if request.path == "/upload"] == [len(BODY)]


def test_a_stream_that_waits_for_the_upstreams_window_gets_no_further_room(
    collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path
) -> None:
    free, held_up = threading.Event(), threading.Event()

    def hold(request: H2Message) -> H2Message:
        if request.get(":path") == "/hold":
            held_up.set()
            free.wait(20)
        return ok(request)

    h2_upstream.handler = hold
    trusted: dict[str, Option] = {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path), "http2": True}
    with (
        MoesifProxy(
            h2_upstream.url, addon_options(collector) | trusted, "--tls-cert", str(make_pem(tmp_path))
        ) as proxy,
        H2Client(proxy.port) as client,
        H2Client(proxy.port) as other,
    ):
        assert client.exchange("GET", "/warm-up").status == 200
        held = client.begin([get("/hold")])
        assert held_up.wait(20)
        before = proxy.memory()
        streams = client.begin([post("/upload")])
        for _ in range(MEANWHILE):
            assert other.exchange("GET", "/meanwhile").status == 200
        free.set()
        assert [answer.status for answer in client.finish([*held, *streams])] == [200] * 2
        assert proxy.peak_memory() - before < MEMORY
    assert [len(each.body) for each in h2_upstream.requests() if each.get(":path") == "/upload"] == [len(BODY)]
