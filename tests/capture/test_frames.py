"""Empty frames of HTTP/2 in the middle of a body, and its table of headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h2.errors
import hpack
import pytest

from mitmproxy_moesif.capture.frames import TABLE, Encoder
from tests.support.addon import addon_options, only_event
from tests.support.client import Client, trusting
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, H2Message, H2Upstream, get, make_pem
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.proxy import Option
from tests.support.upstream import ScriptedUpstream

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
PIECES = (b"", b"one", b"", b"", SMUGGLED, b"")
POST = [(":method", "POST"), *get("/").headers[1:]]


def test_an_empty_frame_of_a_client_does_not_end_the_body_toward_http1(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        (answer,) = client.exchange_all([H2Message(POST, b"end", pieces=PIECES)])
        assert answer.status == 200
        assert client.exchange("GET", "/next").status == 200
        collector.wait_for(2)
    assert [(each.path, each.body) for each in upstream.requests()] == [
        ("/", b"one" + SMUGGLED + b"end"),
        ("/next", b""),
    ]


def test_an_empty_piece_that_an_addon_makes_does_not_end_the_body_toward_http1(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    script = scripted(
        tmp_path,
        "def requestheaders(flow):\n    flow.request.stream = lambda data: data.replace(b'two', b'')\n",
    )
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path)), *script) as proxy,
        H2Client(proxy.port) as client,
    ):
        (answer,) = client.exchange_all([H2Message(POST, b"end", pieces=(b"one", b"two", b"three"))])
        assert answer.status == 200
    assert [each.body for each in upstream.requests()] == [b"onethreeend"]


@pytest.mark.parametrize("alpn", [("h2",), ("http/1.1", "h2")])
def test_an_empty_frame_of_an_upstream_does_not_end_the_body(
    collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path, alpn: tuple[str, ...]
) -> None:
    answer = H2Message([(":status", "200")], b"end", pieces=PIECES)
    h2_upstream.handler = lambda _: answer
    trusted: dict[str, Option] = {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path), "http2": True}
    options = addon_options(collector, engine="mitmproxy") | trusted
    with MoesifProxy(h2_upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy:
        if alpn[0] == "h2":
            with H2Client(proxy.port) as client:
                assert client.exchange("GET", "/").body == b"one" + SMUGGLED + b"end"
        else:
            with Client(proxy.port, tls=trusting(*alpn)) as plain:
                response = plain.exchange("GET", "/")
                assert response is not None
                assert response.body == b"one" + SMUGGLED + b"end"


def test_a_body_that_breaks_off_after_an_empty_frame_is_incomplete(
    collector: ScriptedCollector, h2_upstream: H2Upstream, tmp_path: Path
) -> None:
    h2_upstream.handler = lambda _: H2Message(
        [(":status", "200"), ("content-type", "text/plain")],
        pieces=(b"one", b""),
        reset=h2.errors.ErrorCodes.INTERNAL_ERROR,
    )
    trusted: dict[str, Option] = {"ssl_verify_upstream_trusted_ca": str(h2_upstream.ca_path), "http2": True}
    options = addon_options(collector) | trusted
    with (
        MoesifProxy(h2_upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        client.exchange("GET", "/")
        event = only_event(collector)
    assert event["metadata"]["error"] == "upstream_failed"
    assert event["metadata"]["body_omitted"] == {"response": "incomplete"}


def test_the_table_of_sent_headers_is_limited_whatever_the_client_allows(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Each answer has a header that no other has."""
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        decoder = client.allow_table(2**32 - 1)
        for number in range(150):
            assert client.exchange("GET", f"/{number}").get("x-moesif-transaction-id")
        assert decoder.header_table.maxsize == TABLE
    assert len(upstream.requests()) == 150


def test_a_smaller_table_than_the_default_is_kept_to() -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    for size in (100, 0, 2**32 - 1, 200):
        for _ in range(2):
            encoder.header_table_size = size
        decoder.max_allowed_table_size = size
        fields: list[Any] = [(f"name-{number}", "value") for number in range(20)]
        assert list(decoder.decode(encoder.encode(fields))) == fields
        assert encoder.header_table_size == decoder.header_table_size == min(size, TABLE)
