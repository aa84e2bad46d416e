"""Nagle's algorithm is off on every socket of the proxy: a message in pieces waits for nobody's acknowledgement."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support import ADDON_SCRIPT, wire
from tests.support.addon import addon_options
from tests.support.client import encode_request, exchange
from tests.support.h2 import make_certificate
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

REPORT = """
import socket
import sys
from mitmproxy import connection, ctx
from mitmproxy_moesif.lane.client import ClientEnd

def ends(handler):
    if isinstance(handler, ClientEnd):
        return {"client": handler.transport, "upstream": handler.exchange.upstream.transport}
    return {
        "client" if isinstance(peer, connection.Client) else "upstream": io.writer
        for peer, io in handler.transports.items()
    }

def response(flow):
    for handler in ctx.master.addons.get("proxyserver").connections.values():
        for side, end in ends(handler).items():
            option = end.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sys.stderr.write(f"nodelay {side}={bool(option)}\\n")  # whole, among other workers' lines
"""


def in_pieces(_request: RawRequest, connection: Connection) -> None:
    head, end, body = wire.response(200, [], b"abcd").partition(b"\r\n\r\n")
    connection.send(head + end, body[:2], body[2:])


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "report.py"
    path.write_text(REPORT)
    return str(path)


def sides(output: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for side, option in re.findall(r"nodelay (\w+)=(\w+)", output):
        found.setdefault(side, set()).add(option)
    return found


def exchange_in_pieces(port: int, context: ssl.SSLContext | None = None) -> None:
    head, end, body = encode_request("POST", "/", [("Host", "localhost")], b"x" * 100).partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        sock = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        with sock, sock.makefile("rb") as stream:
            for piece in (head + end, body[:50], body[50:]):
                sock.sendall(piece)
            answer = wire.read_head(stream)
            assert answer is not None
            assert wire.read_exactly(stream, 4) == b"abcd"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["lane", "layers", "tls"])
def test_moesif_proxy_turns_nagle_off_on_both_ends(
    moesif_proxy: Callable[..., MoesifProxy],
    upstream: ScriptedUpstream,
    tmp_path: Path,
    script: str,
    workers: int,
    how: str,
) -> None:
    upstream.handler = in_pieces
    arguments, context = ["-s", script], None
    if how == "tls":
        chain, key = make_certificate(tmp_path)
        both = tmp_path / "both.pem"
        both.write_bytes(chain.read_bytes() + key.read_bytes())
        arguments += ["--tls-cert", str(both)]
        context = ssl.create_default_context(cafile=str(chain))
    options = addon_options(spool_dir="off", engine="mitmproxy" if how == "layers" else "auto")
    proxy = moesif_proxy(upstream.url, options, *arguments, workers=workers)
    for _ in range(4):
        exchange_in_pieces(proxy.port, context)
    proxy.stop()
    assert sides(proxy.output) == {"client": {"True"}, "upstream": {"True"}}


@pytest.fixture
def tls_upstream(tmp_path: Path) -> Iterator[str]:
    chain, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_moesif_proxy_turns_nagle_off_toward_a_tls_upstream(
    moesif_proxy: Callable[..., MoesifProxy], tls_upstream: str, script: str
) -> None:
    proxy = moesif_proxy(tls_upstream, addon_options(spool_dir="off"), "-s", script, "--set", "ssl_insecure=true")
    answer = exchange(proxy.port, "HEAD", "/")
    assert answer is not None
    assert answer.status == 200
    proxy.stop()
    assert sides(proxy.output) == {"client": {"True"}, "upstream": {"True"}}


def test_mitmdump_turns_nagle_off_on_both_ends(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, script: str
) -> None:
    upstream.handler = in_pieces
    proxy = mitmdump(upstream.url, addon_options(spool_dir="off"), scripts=[ADDON_SCRIPT, script])
    exchange_in_pieces(proxy.port)
    proxy.stop()
    assert sides(proxy.output) == {"client": {"True"}, "upstream": {"True"}}
