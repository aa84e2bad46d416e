"""Answers over HTTP/2 that are not quite as the standard wants them."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import h2.errors
import mitmproxy.connection
import pytest
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode
from mitmproxy.proxy.layers.http._http2 import StreamState

from mitmproxy_moesif.proxy import http2
from tests.support.addon import addon_options
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, H2Message, H2Upstream, get, make_certificate, make_pem
from tests.support.listener import Listener
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.proxy import Option
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream, plain

if TYPE_CHECKING:
    from mitmproxy.options import Options
    from mitmproxy.proxy.layers.http import HttpStream


def test_a_header_value_with_a_blank_around_it_is_passed_on_without(
    collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path
) -> None:
    head = [(":status", "200"), ("x-after", "a b "), ("x-before", "\tc"), ("x-blank", " ")]
    h2_upstream.handler = lambda _: H2Message(head, b"body", [("x-trailer", "d ")])
    trusted: dict[str, Option] = {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path), "http2": True}
    options = addon_options(collector) | trusted
    with MoesifProxy(h2_upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy:
        with H2Client(proxy.port) as client:
            for number in range(2):  # the second time they come from the table of headers seen
                answer = client.exchange("GET", f"/{number}")
                assert (answer.status, answer.body) == (200, b"body")
                assert [answer.get(name) for name in ("x-after", "x-before", "x-blank")] == ["a b", "c", ""]
                assert answer.trailers == [("x-trailer", "d")]
        events = collector.wait_for(2)
    assert {event["response"]["status"] for event in events} == {200}


@pytest.mark.parametrize("code", [h2.errors.ErrorCodes.CANCEL, h2.errors.ErrorCodes.INTERNAL_ERROR])
@pytest.mark.parametrize("begun", [True, False])
def test_a_stream_that_the_upstream_resets_is_a_failure_of_the_upstream(
    collector: ScriptedCollector,
    h2_upstream: H2Upstream,
    tmp_path: Path,
    code: h2.errors.ErrorCodes,
    *,
    begun: bool,
) -> None:
    head = [(":status", "200"), ("content-type", "application/grpc")] if begun else []
    h2_upstream.handler = lambda _: H2Message(head, b"begun" if begun else b"", reset=code)
    trusted: dict[str, Option] = {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path), "http2": True}
    options = addon_options(collector) | trusted
    with MoesifProxy(h2_upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy:
        with H2Client(proxy.port) as client:
            client.exchange("POST", "/")
        (event,) = collector.wait_for(1)
    assert event["metadata"]["error"] == "upstream_failed"


def test_streams_that_wait_for_room_end_with_their_connection(collector: ScriptedCollector, tmp_path: Path) -> None:
    """Until the upstream says how many there may be, mitmproxy begins ten."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "upstream").mkdir()
    authority, key = make_certificate(tmp_path / "upstream")
    context.load_cert_chain(authority, key)
    context.set_alpn_protocols(["h2"])

    def take_and_leave(plain: socket.socket) -> None:
        with suppress(ssl.SSLError), context.wrap_socket(plain.dup(), server_side=True) as sock:
            sock.recv(65_536)

    trusted: dict[str, Option] = {"ssl_verify_upstream_trusted_ca": str(authority), "http2": True}
    with (
        Listener(take_and_leave) as upstream,
        MoesifProxy(
            f"https://127.0.0.1:{upstream.port}",
            addon_options(collector) | trusted,
            *("--tls-cert", str(make_pem(tmp_path))),
        ) as proxy,
        H2Client(proxy.port) as client,
    ):
        answers = client.exchange_all([get(f"/{number}") for number in range(30)])
        assert [answer.status for answer in answers] == [502] * 30
        events = collector.wait_for(30)
    assert {event["metadata"]["error"] for event in events} == {"upstream_failed"}


SLOW_HOOK = """
import asyncio

async def requestheaders(flow):
    await asyncio.sleep(60)
"""


def test_a_client_that_gives_up_one_request_after_the_other_is_cut_off(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Each waits for a hook."""
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    given_up = H2Message(get("/").headers, reset=h2.errors.ErrorCodes.CANCEL)
    script = scripted(tmp_path, SLOW_HOOK)
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path)), *script) as proxy,
        H2Client(proxy.port) as client,
        pytest.raises((AssertionError, OSError), match=r"closed the connection|Broken pipe|reset by peer"),
    ):
        client.finish(client.begin([given_up] * 5000))


def test_requests_that_are_given_up_are_not_kept(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Each waits for one of the five connections that a client has to an upstream without HTTP/2."""
    free = threading.Event()

    def hold(request: RawRequest, connection: Connection) -> None:
        connection.wait(free)
        plain(request, connection)

    upstream.handler = hold
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    given_up = H2Message(get("/").headers, reset=h2.errors.ErrorCodes.CANCEL)
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        held = client.begin([get("/")] * 5)
        upstream.wait_for(5)
        client.begin([given_up] * 2000)
        free.set()
        assert {answer.status for answer in client.finish(held)} == {200}
        events = collector.wait_for(2005)
    assert len(upstream.requests()) == 5
    assert sum(event.get("metadata", {}).get("error") == "client_disconnected" for event in events) == 2000


def test_streams_that_have_ended_are_forgotten() -> None:
    options = SimpleNamespace(validate_inbound_headers=True, http2_ping_keepalive=0, proxy_debug=False)
    peer = mitmproxy.connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0.0)
    context = Context(peer, cast("Options", options))
    layer = HttpLayer(context, HTTPMode.transparent)
    client = http2.Client(context.fork())
    client.h2_conn.initiate_connection()
    client.h2_conn.send_headers(5, [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "h")])
    for number in range(1, 2001, 2):
        client.our_stream_id[number], client.their_stream_id[number] = number, number
        client.streams[number] = StreamState.HEADERS_RECEIVED
    layer.streams[9] = cast("HttpStream", None)
    client.forget_ended()
    assert list(client.our_stream_id) == list(client.their_stream_id) == list(client.streams) == [5, 9]


def test_a_client_has_more_requests_than_are_remembered(
    collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path
) -> None:
    trusted: dict[str, Option] = {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path), "http2": True}
    options = addon_options(collector, enabled=False) | trusted
    with (
        MoesifProxy(h2_upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        for _ in range(60):
            assert {answer.status for answer in client.exchange_all([get("/")] * 50)} == {200}
