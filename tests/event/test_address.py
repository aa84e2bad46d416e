"""The client's address, from believed headers or the peer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.policy import parse_networks
from mitmproxy_moesif.event.address import client_address, is_trusted, plain_peer

PEER = "192.0.2.1"


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, PEER),
        ({"x-client-ip": "203.0.113.9", "x-forwarded-for": "198.51.100.1"}, "203.0.113.9"),
        ({"x-client-ip": "nonsense", "x-forwarded-for": "198.51.100.1"}, "198.51.100.1"),
        ({"x-client-ip": "203.0.113.9:80"}, PEER),
        ({"x-forwarded-for": "203.0.113.9, 10.0.0.1"}, "203.0.113.9"),
        ({"x-forwarded-for": "unknown, , 203.0.113.9:4711, 10.0.0.1"}, "203.0.113.9"),
        ({"x-forwarded-for": "[2001:db8::1]:4711"}, "2001:db8::1"),
        ({"x-forwarded-for": "[2001:db8::1]"}, "2001:db8::1"),
        ({"x-forwarded-for": "2001:db8::1"}, "2001:db8::1"),
        ({"x-forwarded-for": "unknown", "cf-connecting-ip": "203.0.113.9"}, "203.0.113.9"),
        ({"cf-connecting-ip": "1.1.1.1", "fastly-client-ip": "2.2.2.2"}, "1.1.1.1"),
        ({"fastly-client-ip": "2.2.2.2", "true-client-ip": "3.3.3.3"}, "2.2.2.2"),
        ({"true-client-ip": "3.3.3.3", "x-real-ip": "4.4.4.4"}, "3.3.3.3"),
        ({"x-real-ip": "4.4.4.4", "x-cluster-client-ip": "5.5.5.5"}, "4.4.4.4"),
        ({"x-cluster-client-ip": "5.5.5.5", "x-forwarded": "6.6.6.6"}, "5.5.5.5"),
        ({"x-forwarded": "6.6.6.6", "forwarded-for": "7.7.7.7"}, "6.6.6.6"),
        ({"forwarded-for": "7.7.7.7", "forwarded": "for=8.8.8.8"}, "7.7.7.7"),
        ({"forwarded": "for=192.0.2.60;proto=http;by=203.0.113.43"}, "192.0.2.60"),
        ({"forwarded": 'proto=https; For="[2001:db8:cafe::17]:4711", for=1.1.1.1'}, "2001:db8:cafe::17"),
        ({"forwarded": "for=_hidden, for=1.1.1.1"}, "1.1.1.1"),
        ({"forwarded": "203.0.113.9"}, "203.0.113.9"),
        ({"forwarded": "unknown, 2001:db8::1"}, "2001:db8::1"),
        ({"forwarded": "by=203.0.113.9;proto=http"}, PEER),
        ({"x-client-ip": "fe80::1%eth0"}, PEER),
        ({"x-client-ip": "010.1.1.1"}, PEER),
    ],
)
def test_first_valid_address_in_order(headers: dict[str, str], address: str) -> None:
    assert client_address(headers, PEER, trusted=True) == address


def test_headers_of_an_untrusted_peer_are_not_believed() -> None:
    headers = {"x-client-ip": "203.0.113.9"}
    assert client_address(headers, PEER, trusted=False) == PEER


def test_behind_kong_its_own_view_comes_first() -> None:
    headers = {"x-forwarded-for": "203.0.113.9", "x-real-ip": "198.51.100.7"}
    assert client_address(headers, PEER, trusted=True, real_ip_first=True) == "198.51.100.7"


@pytest.mark.parametrize(
    ("peer", "trusted"), [("10.1.2.3", True), ("11.1.2.3", False), ("2001:db8::5", True), ("::1", False), ("", False)]
)
def test_trusted_networks(peer: str, trusted: bool) -> None:
    assert is_trusted(peer, parse_networks(("10.0.0.0/8", "2001:db8::/32"))) is trusted


@pytest.mark.parametrize(
    ("host", "shown"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("::1", "::1"), ("fe80::1%eth0", "fe80::1"), ("1.2.3.4", "1.2.3.4")],
)
def test_peer_as_shown(host: str, shown: str) -> None:
    assert plain_peer(host) == shown


@given(st.dictionaries(st.sampled_from(["x-client-ip", "x-forwarded-for", "forwarded", "x-real-ip"]), st.text()))
def test_any_header_gives_an_address(headers: dict[str, str]) -> None:
    assert client_address(headers, PEER, trusted=True)
