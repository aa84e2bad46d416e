"""TLS toward the upstream, through the lane and the layers: what is checked, said and kept is the same."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lane.test_opening import engines, options
from tests.support import wire
from tests.support.client import Client, RawResponse, exchange, trusting
from tests.support.h2 import make_certificate, make_pem
from tests.support.listener import Listener
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

HOOKS = """
import json
from pathlib import Path

OUT = open(Path(__file__).with_suffix(".ndjson"), "a", buffering=1)

def note(hook, server, error=None):
    OUT.write(json.dumps([
        hook, server.tls, server.sni, server.error, repr(server.alpn), list(server.alpn_offers), server.cipher,
        server.tls_version, [cert.fingerprint().hex() for cert in server.certificate_list],
        server.tls_established, server.state.name, error,
    ]) + "\\n")

def requestheaders(flow):
    note("requestheaders", flow.server_conn)
    flow.request.host, _, port = flow.request.path[1:].partition(":")
    flow.request.port = int(port)

def server_connected(data): note("server_connected", data.server)
def tls_established_server(data): note("tls_established_server", data.conn)
def tls_failed_server(data): note("tls_failed_server", data.conn)
def response(flow): note("response", flow.server_conn)
def error(flow): note("error", flow.server_conn, flow.error.msg)
"""

CERTIFICATES = {
    "good": ("localhost", "127.0.0.1"),
    "other": ("elsewhere.example", "192.0.2.1"),
    "unknown": ("localhost", "127.0.0.1"),
}

KINDS = {
    "good": 200,
    "of another name": 502,
    "of an unknown authority": 502,
    "of an old version": 502,
    "asking for a certificate": 200,
    "without TLS": 502,
    "closing": 502,
}
"""Upstreams, and the status that a client gets."""


WITHOUT_TLS = {"without TLS": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "closing": b""}


def speaking(certificate: Path, key: Path, **settings: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def wanting_a_certificate(trusted: Path, *own: Path) -> ssl.SSLContext:
    context = speaking(*own, verify_mode=ssl.CERT_REQUIRED)
    context.load_verify_locations(trusted)
    return context


def reply(answer: bytes, connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(answer)


class Upstreams:
    """One of each kind."""

    def __init__(self, folder: Path, started: ExitStack) -> None:
        self.folder = folder
        good, other, unknown = (self.certificate(name, *of) for name, of in CERTIFICATES.items())
        self.trusted, self.client = folder / "trusted.pem", folder / "client.pem"
        self.trusted.write_bytes(good[0].read_bytes() + other[0].read_bytes())
        self.client.write_bytes(good[1].read_bytes() + good[0].read_bytes())
        contexts = {
            "good": speaking(*good),
            "good, for several": speaking(*good),  # the lane keeps connections: who looks at how one opens is alone
            "of another name": speaking(*other),
            "of an unknown authority": speaking(*unknown),
            "of an old version": speaking(*good, maximum_version=ssl.TLSVersion.TLSv1_2),
            "asking for a certificate": wanting_a_certificate(good[0], *good),
            "refusing our certificate": wanting_a_certificate(unknown[0], *good),
        }
        self.ports = {
            kind: started.enter_context(ScriptedUpstream(tls=context)).port for kind, context in contexts.items()
        }
        for kind, answer in WITHOUT_TLS.items():
            self.ports[kind] = started.enter_context(Listener(partial(reply, answer))).port

    def certificate(self, name: str, *of: str) -> tuple[Path, Path]:
        (self.folder / name).mkdir()
        return make_certificate(self.folder / name, *of)


class Side:
    """One engine."""

    def __init__(self, engine: str, upstreams: Upstreams, folder: Path, started: ExitStack) -> None:
        folder.mkdir()
        self.script = folder / "hooks.py"
        self.script.write_text(HOOKS)
        given = options(
            folder,
            moesif_engine=engine,
            moesif_stream=False,
            moesif_disable_transaction_id=True,
            ssl_verify_upstream_trusted_ca=str(upstreams.trusted),
            client_certs=str(upstreams.client),
            tls_version_server_min="TLS1_3",
        )
        url = f"https://127.0.0.1:{upstreams.ports['good']}"
        self.proxy = started.enter_context(MoesifProxy(url, given, "-s", str(self.script), "--forwarded", "off"))
        self.proxy.wait_for_output("Admin API at")

    def ask(self, host: str, port: int) -> tuple[RawResponse | None, list[Any]]:
        """The answer, and what hooks saw. The last of them runs before a body that is not streamed is sent."""
        before = len(self.told())
        answer = exchange(self.proxy.port, "GET", f"/{host}:{port}")
        return answer, self.told()[before:]

    def told(self) -> list[Any]:
        told = self.script.with_suffix(".ndjson")
        return [json.loads(line) for line in told.read_text().splitlines()]


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstreams]:
    with ExitStack() as started:
        yield Upstreams(tmp_path_factory.mktemp("upstreams"), started)


@pytest.fixture(scope="module")
def sides(upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    folder = tmp_path_factory.mktemp("sides")
    with ExitStack() as started:
        fast, layers = (Side(engine, upstreams, folder / engine, started) for engine in ("fast", "mitmproxy"))
        yield fast, layers


@pytest.mark.parametrize("kind", KINDS)
def test_an_upstream_is_checked_as_by_the_layers(kind: str, sides: tuple[Side, Side], upstreams: Upstreams) -> None:
    fast, layers = (side.ask("127.0.0.1", upstreams.ports[kind]) for side in sides)
    assert fast == layers
    assert fast[0] is not None
    assert fast[0].status == KINDS[kind]


def test_an_upstream_that_refuses_our_certificate_is_a_502(sides: tuple[Side, Side], upstreams: Upstreams) -> None:
    """With TLS 1.3 it says so when the handshake is over."""
    fast, layers = (side.ask("127.0.0.1", upstreams.ports["refusing our certificate"]) for side in sides)
    assert fast == layers
    answer, told = fast
    assert answer is not None
    assert answer.status == 502
    assert told[-1][-1] == "server closed connection"


def test_a_host_is_asked_for_by_its_name(sides: tuple[Side, Side], upstreams: Upstreams) -> None:
    fast, layers = (side.ask("localhost", upstreams.ports["good"]) for side in sides)
    assert fast == layers
    assert fast[1][-1][2] == "localhost"


def test_a_host_and_its_address_share_no_connection(sides: tuple[Side, Side], upstreams: Upstreams) -> None:
    for host in ("127.0.0.1", "localhost") * 2:
        _, told = sides[0].ask(host, upstreams.ports["good, for several"])
        assert told[-1][2] == host


def test_the_lane_carries_it_and_keeps_its_connections(sides: tuple[Side, Side], upstreams: Upstreams) -> None:
    fast = sides[0]
    fast.ask("127.0.0.1", upstreams.ports["good, for several"])
    before = engines(fast.proxy)
    _, told = fast.ask("127.0.0.1", upstreams.ports["good, for several"])
    assert engines(fast.proxy) == {"fast": before["fast"] + 1, "mitmproxy": 0}
    assert [hook for hook, *_ in told] == ["requestheaders", "response"]


def test_failures_are_logged_in_the_same_words(sides: tuple[Side, Side], upstreams: Upstreams) -> None:
    ports = [upstreams.ports[kind] for kind, status in KINDS.items() if status == 502]
    configured = upstreams.ports["good"]
    lines = re.compile(rf"Server TLS handshake failed\..*|the upstream \S+:{configured} fails: .*")
    said = []
    for side in sides:
        for port in ports:
            side.ask("127.0.0.1", port)
        said.append(set(lines.findall(side.proxy.output)))
    assert len(said[0]) >= 6
    assert said[0] == said[1]


def test_connections_are_opened_anew_when_what_is_trusted_changes(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = make_certificate(tmp_path / "other")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(certificate.read_bytes())
    given = options(tmp_path, moesif_engine="fast", ssl_verify_upstream_trusted_ca=str(trusted))
    with ScriptedUpstream(tls=speaking(certificate, key)) as upstream, MoesifProxy(upstream.url, given) as proxy:
        statuses = []
        for number, trust in enumerate((certificate, other, certificate)):
            trusted.write_bytes(trust.read_bytes())
            if number:
                proxy.send_signal(signal.SIGHUP)
                proxy.wait_for_output("were read again", count=number)
            answer = exchange(proxy.port, "GET", "/")
            statuses.append(answer and answer.status)
        assert statuses == [200, 502, 200]


@pytest.mark.parametrize("engine", ["fast", "mitmproxy"])
@pytest.mark.parametrize("content", [None, b"half-writ"])
def test_the_certificate_that_was_read_last_is_shown_while_its_file_is_renewed(
    tmp_path: Path, engine: str, content: bytes | None
) -> None:
    certificate, key = make_certificate(tmp_path)
    shown = tmp_path / "shown.pem"
    shown.write_bytes(key.read_bytes() + certificate.read_bytes())
    given = options(
        tmp_path, moesif_engine=engine, ssl_verify_upstream_trusted_ca=str(certificate), client_certs=str(shown)
    )
    context = wanting_a_certificate(certificate, certificate, key)
    with ScriptedUpstream(tls=context) as upstream, MoesifProxy(upstream.url, given) as proxy:
        shown.unlink() if content is None else shown.write_bytes(content)
        statuses = []
        for number in range(3):
            if number:
                proxy.send_signal(signal.SIGHUP)
                proxy.wait_for_output("the configuration was refused, the old one stays", count=number)
            answer = exchange(proxy.port, "GET", "/")
            statuses.append(answer and answer.status)
        assert statuses == [200, 200, 200]


def test_an_upstream_that_knows_http2_is_not_offered_it(tmp_path: Path) -> None:
    """Also where the client knows it, and likes HTTP/1 better."""
    pem = make_pem(tmp_path)
    (tmp_path / "upstream").mkdir()
    certificate, key = make_certificate(tmp_path / "upstream")
    serving = speaking(certificate, key)
    serving.set_alpn_protocols(["h2", "http/1.1"])
    agreed: list[str | None] = []

    def answer(_request: RawRequest, connection: Connection) -> None:
        assert isinstance(connection.sock, ssl.SSLSocket)
        agreed.append(connection.sock.selected_alpn_protocol())
        connection.send(wire.response(200, [], b"{}"))

    trusted = str(certificate)
    given = options(tmp_path, moesif_engine="fast", http2=True, certs=str(pem), ssl_verify_upstream_trusted_ca=trusted)
    with ScriptedUpstream(tls=serving) as upstream, MoesifProxy(upstream.url, given) as proxy:
        upstream.handler = answer
        with Client(proxy.port, tls=trusting("http/1.1", "h2")) as client:
            assert client.exchange("GET", "/") is not None
    assert agreed == ["http/1.1"]


LEFT = """
import sys

def error(flow):
    sys.stdout.write(f"error {flow.error.msg}\\n")
"""


def test_a_client_that_leaves_while_an_upstream_does_not_shake_hands_is_let_go(tmp_path: Path) -> None:
    """Its FIN may be that of a client that waits for an answer; nothing of one comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        given = options(tmp_path, moesif_engine="fast")
        with MoesifProxy(url, given, *scripted(tmp_path, LEFT)) as proxy:
            with Client(proxy.port) as client:
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                silent, _ = listener.accept()
            with silent:
                proxy.wait_for_output("error Client disconnected.")
