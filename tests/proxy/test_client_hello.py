"""A client's first message of TLS: known to be whole when mitmproxy's parser says so, and never without bound."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.proxy.layers.tls import get_client_hello

from mitmproxy_moesif.proxy.client_hello import MOST, Hello
from tests.lane.test_opening import options
from tests.support.client import Client, trusting
from tests.support.h2 import make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import ScriptedUpstream


def record(data: bytes) -> bytes:
    return b"\x16\x03\x01" + len(data).to_bytes(2) + data


def client_hello() -> bytes:
    """A real one, without its record's header."""
    came, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        trusting("h2", "http/1.1").wrap_bio(came, out, server_hostname="localhost").do_handshake()
    return out.read()[5:]


REAL = client_hello()


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % len(data) for place in at)})
    return [data[begin:end] for begin, end in pairwise(bounds)]


def said(ask: Callable[[bytes], object], data: bytes) -> bool | None:
    """None where it is no ClientHello."""
    try:
        return bool(ask(data))
    except ValueError:
        return None


places = st.lists(st.integers(0, 3000), max_size=30)


@given(
    message=st.sampled_from([REAL, b"\x01\0\0\x02ab", b"\x01\0\0\0", b"\x01\0"]), records=places, pieces=places,
    behind=st.sampled_from([b"", record(b"more"), b"\x17\x03\x03\0\x01"]),
)  # fmt: skip
def test_it_is_whole_when_the_parser_says_so(
    message: bytes, records: list[int], pieces: list[int], behind: bytes
) -> None:
    sent = b"".join(map(record, cut(message, records)))
    hello, came = Hello(), b""
    for piece in cut(sent, pieces) + [behind] * bool(behind):
        came += piece
        expected = said(get_client_hello, came)
        assert said(hello.is_whole_with, piece) is expected
        if expected is True:
            assert bytes(hello.data) == came
        if expected is not False:
            break


@pytest.mark.parametrize("start", [b"GET / HTTP", b"\x16\x03\x01\0\0", b"\x17\x03\x01\0\x05hello"])
def test_what_is_none_is_refused(start: bytes) -> None:
    with pytest.raises(ValueError, match="begins no record"):
        Hello().is_whole_with(start)


@pytest.mark.parametrize("engine", ["fast", "mitmproxy"])
@pytest.mark.parametrize("size", [1, 16_000])
def test_a_client_cannot_announce_more_than_is_kept(
    size: int, engine: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """Of 16 MB, which mitmproxy awaits. In small records their headers count, too."""
    given_options = options(tmp_path, moesif_engine=engine)
    with MoesifProxy(upstream.url, given_options, "--tls-cert", str(make_pem(tmp_path))) as proxy:
        with closing(socket.create_connection(("127.0.0.1", proxy.port), 10)) as sock:
            sock.sendall(record(b"\x01\xff\xff\xff"))
            with suppress(ConnectionError):  # it ends before it has all
                sock.sendall(record(b"x" * size) * (2 * MOST // size))
            with suppress(ConnectionError):
                assert sock.recv(1) == b""
        output = proxy.wait_for_output("Client TLS handshake failed.")
        assert f"Client TLS handshake failed. Cannot parse ClientHello: it is over {MOST} bytes\n" in output
        with Client(proxy.port, tls=trusting()) as client:
            assert client.exchange("GET", "/") is not None


def test_a_message_that_cannot_be_read_is_not_quoted_at_length(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with MoesifProxy(upstream.url, options(tmp_path), "--tls-cert", str(make_pem(tmp_path))) as proxy:
        with closing(socket.create_connection(("127.0.0.1", proxy.port), 10)) as sock:
            sock.sendall(record(b"\x01\0\x20\0" + b"\xff" * 0x2000))
            assert sock.recv(1) == b""
        output = proxy.wait_for_output("Client TLS handshake failed.")
        assert max(map(len, output.splitlines())) < 500
