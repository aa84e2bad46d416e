"""Who can reach a listening socket."""

from __future__ import annotations

import socket

import pytest
from tornado.netutil import bind_sockets

from mitmproxy_moesif.web.loopback import is_bound_to_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.3.2.1"])
def test_what_is_bound_to_loopback_is_asked_of_the_socket(host: str) -> None:
    (bound,) = bind_sockets(0, host)
    with bound:
        assert is_bound_to_loopback(bound)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "fe80::1%eth0"])
def test_any_other_address_is_reached_by_others(host: str) -> None:
    class Bound(socket.socket):
        """A socket that says where it is bound."""

        def getsockname(self) -> tuple[str, int]:
            return host, 0

    with Bound() as bound:
        assert not is_bound_to_loopback(bound)
