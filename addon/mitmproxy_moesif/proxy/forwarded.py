"""The `X-Forwarded-*` headers, which tell the upstream about the client."""

from __future__ import annotations

from mitmproxy import http

from mitmproxy_moesif.event.address import plain_peer
from mitmproxy_moesif.event.exchange import Fields

FOR, PROTO, HOST, PORT = b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Forwarded-Port"
_FOR = FOR.lower()
_KEPT = {name.lower(): name for name in (PROTO, HOST, PORT)}
_LENGTHS = {len(FOR), *map(len, _KEPT), len(b"Host")}


class Forwarded:
    """Adds `X-Forwarded-*` for the upstream. Comes after the capture, so that events show what the client sent.

    The peer's address is appended to `X-Forwarded-For`, with repeated headers joined into one, like nginx's
    `$proxy_add_x_forwarded_for`. Proto, Host and Port are each set only if absent, as Kong does for trusted peers: a
    load balancer that terminates TLS knows better. Without a load balancer, a client can therefore send any value.
    Host is only the name, in lower case and without port, as in Kong.
    """

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        peer = flow.client_conn.peername
        if peer is not None:
            scheme = b"https" if flow.client_conn.tls else b"http"
            flow.request.headers.fields = forwarded(
                flow.request.headers.fields,
                plain_peer(peer[0]).encode(),
                scheme,
                flow.request.data.authority,
                b"%d" % flow.client_conn.sockname[1],
            )


def forwarded(fields: Fields, peer: bytes, scheme: bytes, authority: bytes, port: bytes) -> Fields:
    """The headers with those about the client added; all others unchanged and in order.

    `authority` is HTTP/2's replacement for `Host`; `port` is the port that the client connected to.
    """
    kept: list[tuple[bytes, bytes]] = []
    hops: list[bytes] = []
    name, host = FOR, authority
    present: set[bytes] = set()
    for field in fields:
        key = field[0].lower() if len(field[0]) in _LENGTHS else b""
        if key == _FOR:
            name = field[0]
            hops.append(field[1])
            continue
        if key in _KEPT:
            present.add(_KEPT[key])
        elif key == b"host":
            host = host or field[1]
        kept.append(field)
    kept.append((name, b", ".join([*filter(None, hops), peer])))
    told = ((PROTO, scheme), (HOST, host_name(host)), (PORT, port))
    kept += [(each, value) for each, value in told if value and each not in present]
    return tuple(kept)


def host_name(host: bytes) -> bytes:
    """Like nginx's `$host`: lower case, without port and trailing dot; IPv6 addresses keep their brackets."""
    address, bracket, _ = host.partition(b"]")
    name = address + bracket if host.startswith(b"[") and bracket else host.partition(b":")[0]
    return name.lower().removesuffix(b".")
