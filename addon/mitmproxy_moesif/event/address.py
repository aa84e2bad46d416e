"""The client's address: from trusted headers, else the peer."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from functools import lru_cache

from mitmproxy_moesif.config.policy import Network

# In the order of Moesif's plugins. Lists give their leftmost valid entry, the other headers a literal address.
_LITERAL_BEFORE = ("x-client-ip",)
_LITERAL_AFTER = (
    "cf-connecting-ip",
    "fastly-client-ip",
    "true-client-ip",
    "x-real-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "forwarded-for",
)


def client_address(headers: Mapping[str, str], peer: str, *, trusted: bool, real_ip_first: bool = False) -> str:
    """The caller's address. `real_ip_first`: `X-Real-IP`, which Kong sets, wins over the forgeable lists."""
    if not trusted:
        return peer
    for candidate in _candidates(headers, real_ip_first):
        if valid_ip(candidate):
            return candidate
    return peer


def _candidates(headers: Mapping[str, str], real_ip_first: bool) -> Iterator[str]:
    if real_ip_first and "x-real-ip" in headers:
        yield headers["x-real-ip"].strip()
    for name in _LITERAL_BEFORE:
        if name in headers:
            yield headers[name].strip()
    for entry in headers.get("x-forwarded-for", "").split(","):
        yield without_port(entry.strip())
    for name in _LITERAL_AFTER:
        if name in headers:
            yield headers[name].strip()
    yield from _forwarded_for(headers.get("forwarded", ""))


def _forwarded_for(header: str) -> Iterator[str]:
    """The `for=` nodes of RFC 7239, leftmost first; also addresses without `for=`, which some proxies write."""
    for element in header.split(","):
        for pair in element.split(";"):
            name, equals, value = pair.partition("=")
            if not equals or name.strip().lower() == "for":
                yield without_port((value if equals else name).strip().strip('"').strip())


def without_port(entry: str) -> str:
    """`203.0.113.9:4711` and `[2001:db8::1]:4711` without port and brackets; anything else unchanged."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, colon, _ = entry.partition(":")
    return host if colon and entry.count(":") == 1 else entry


def valid_ip(candidate: str) -> bool:
    """Whether this is an IP literal, without a zone."""
    return len(candidate) <= 45 and "%" not in candidate and _is_ip(candidate)


@lru_cache(maxsize=4096)
def _is_ip(candidate: str) -> bool:
    try:
        ipaddress.ip_address(candidate)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4096)
def is_trusted(peer: str, networks: tuple[Network, ...]) -> bool:
    """Whether a peer is inside the trusted networks."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in networks)


def plain_peer(host: str) -> str:
    """The peer's address as the event shows it: without zone, IPv4-mapped IPv6 as IPv4."""
    host = host.partition("%")[0]
    return host[7:] if host.startswith("::ffff:") and "." in host else host
