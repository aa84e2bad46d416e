"""Back-pressure from HTTP/2 clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support import wire
from tests.support.addon import addon_options
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, H2Message, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

PIECE = b"x" * 1_000_000
PIECES = 60
MEMORY = 25_000_000


def download(_request: RawRequest, connection: Connection) -> None:
    head = [("Content-Type", "text/plain"), ("Content-Length", str(len(PIECE) * PIECES))]
    connection.send(b"HTTP/1.1 200 OK\r\n" + wire.encode_headers(head) + b"\r\n")
    for _ in range(PIECES):
        connection.send(PIECE)


def test_a_client_that_does_not_read_holds_up_its_upstream(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Its window is 64 kB; meanwhile others are served, and then it gets all of it."""
    upstream.answer("/download", download)
    proxy = moesif_proxy(upstream.url, {**addon_options(collector), "certs": str(make_pem(tmp_path)), "http2": True})
    pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "h"), (":path", "/download")]
    with H2Client(proxy.port) as client, H2Client(proxy.port) as other:
        assert client.exchange("GET", "/warm-up").status == 200
        before = proxy.memory()
        streams = client.begin([H2Message(list(pseudo))])
        for _ in range(300):  # while these are answered, mitmproxy would have read all of it
            assert other.exchange("GET", "/meanwhile").status == 200
        (answer,) = client.finish(streams)
    assert len(answer.body) == len(PIECE) * PIECES
    assert proxy.peak_memory() - before < MEMORY
