"""What a reverse proxy tells its upstream about the client: `X-Forwarded-*`."""

from __future__ import annotations

from mitmproxy import http

from mitmproxy_moesif.event.address import plain_peer
from mitmproxy_moesif.event.exchange import Fields

FOR, PROTO, HOST = b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host"
_FOR, _PROTO, _HOST = FOR.lower(), PROTO.lower(), HOST.lower()
_LENGTHS = {len(FOR), len(PROTO), len(HOST), len(b"Host")}


class Forwarded:
    """`X-Forwarded-*` toward the upstream. Stands behind the capture: the event shows what the client sent.

    The peer is appended to `X-Forwarded-For`, all of its lines in one, as nginx's `$proxy_add_x_forwarded_for` does.
    Proto and Host are set where they are absent: a load balancer before us that ends TLS knows better.
    """

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        peer = flow.client_conn.peername
        if peer is not None:
            scheme = b"https" if flow.client_conn.tls else b"http"
            authority = flow.request.data.authority
            flow.request.headers.fields = forwarded(
                flow.request.headers.fields, plain_peer(peer[0]).encode(), scheme, authority
            )


def forwarded(fields: Fields, peer: bytes, scheme: bytes, authority: bytes) -> Fields:
    """The headers with those about the client; all others untouched and in their order.

    `authority` is what HTTP/2 has instead of `Host`.
    """
    kept: list[tuple[bytes, bytes]] = []
    hops: list[bytes] = []
    name, host = FOR, authority
    absent = {PROTO, HOST}
    for field in fields:
        key = field[0].lower() if len(field[0]) in _LENGTHS else b""
        if key == _FOR:
            name = field[0]
            hops.append(field[1])
            continue
        if key == _PROTO:
            absent.discard(PROTO)
        elif key == _HOST:
            absent.discard(HOST)
        elif key == b"host":
            host = host or field[1]
        kept.append(field)
    kept.append((name, b", ".join([*filter(None, hops), peer])))
    if PROTO in absent:
        kept.append((PROTO, scheme))
    if HOST in absent and host:
        kept.append((HOST, host))
    return tuple(kept)
