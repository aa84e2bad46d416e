"""What is written to TLS while the peer has it shake hands anew: TLS in memory, both ends in the test's hands."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.connection import Client, ConnectionState
from OpenSSL import SSL

from mitmproxy_moesif.lane.tls import Tls
from tests.support.h2 import make_certificate

AT_ONCE = 65_536


class Tcp(asyncio.Transport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0


class Above(asyncio.Protocol):
    """Notes whether it may write, and what came."""

    def __init__(self) -> None:
        self._may_write = True
        self.came = b""

    def may_write(self) -> bool:
        return self._may_write

    def data_received(self, data: bytes) -> None:
        self.came += data

    def pause_writing(self) -> None:
        assert self._may_write
        self._may_write = False

    def resume_writing(self) -> None:
        assert not self._may_write
        self._may_write = True


class Ends:
    """Ours, and an upstream of TLS 1.2. Their handshake is made."""

    def __init__(self, folder: Path) -> None:
        certificate, key = make_certificate(folder)
        server = SSL.Context(SSL.TLS_SERVER_METHOD)
        server.set_max_proto_version(SSL.TLS1_2_VERSION)
        server.use_certificate_file(str(certificate))
        server.use_privatekey_file(str(key))
        self.peer = SSL.Connection(server)
        self.peer.set_accept_state()
        self.above, self.tcp = Above(), Tcp()
        client = Client(peername=("c", 1), sockname=("s", 2), state=ConnectionState.OPEN)
        self.tls = Tls(self.above, client)
        self.tls.tcp = self.tcp
        self.tls.tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
        self.tls.tls.set_connect_state()
        self.got = b""
        """By the upstream."""
        self.tls.write(b"")
        with suppress(SSL.WantReadError):
            self.tls.tls.do_handshake()
        self.tls.write(b"")
        self.pass_on()

    def have_peer_ask_anew(self) -> None:
        assert self.peer.renegotiate()
        with suppress(SSL.WantReadError):
            self.peer.do_handshake()
        self._from_peer()

    def pass_on(self) -> None:
        """Until neither side has anything to say."""
        while self.tcp.sent:
            sent, self.tcp.sent = b"".join(self.tcp.sent), []
            self.peer.bio_write(sent)
            with suppress(SSL.WantReadError):
                while True:
                    self.got += self.peer.recv(AT_ONCE)
            self._from_peer()

    def _from_peer(self) -> None:
        with suppress(SSL.WantReadError):
            while True:
                self.tls.data_received(self.peer.bio_read(AT_ONCE))


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    ends = Ends(tmp_path)
    ends.tls.write(b"first ")
    ends.pass_on()
    assert ends.got == b"first "
    return ends


@pytest.mark.parametrize("pieces", [[b"second"], [b"sec", b"ond"], [b"second" * 20_000]])
def test_what_is_written_while_hands_are_shaken_anew_follows(pieces: list[bytes], ends: Ends) -> None:
    ends.have_peer_ask_anew()
    for piece in pieces:
        ends.tls.write(piece)
    assert ends.tls.get_write_buffer_size() == sum(map(len, pieces))
    assert not ends.above.may_write()
    ends.pass_on()
    ends.tls.write(b" third")
    ends.pass_on()
    assert ends.got == b"first " + b"".join(pieces) + b" third"
    assert ends.tls.get_write_buffer_size() == 0
    assert ends.above.may_write()
    assert ends.peer.total_renegotiations() == 1


def test_it_may_be_written_again_when_tcp_takes_more_and_hands_are_shaken(ends: Ends) -> None:
    ends.have_peer_ask_anew()
    ends.tls.write(b"second")
    ends.tls.pause_writing()
    ends.tls.resume_writing()
    assert not ends.above.may_write()
    ends.tls.pause_writing()
    ends.pass_on()
    assert not ends.above.may_write()
    ends.tls.resume_writing()
    assert ends.above.may_write()


def test_what_comes_while_hands_are_shaken_anew_is_passed_on(ends: Ends) -> None:
    ends.have_peer_ask_anew()
    ends.tls.write(b"second")
    ends.pass_on()
    ends.peer.sendall(b"an answer")
    ends._from_peer()
    assert ends.above.came == b"an answer"
