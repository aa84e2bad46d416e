"""What a reverse proxy tells its upstream about the client: `X-Forwarded-*`."""

from __future__ import annotations

from mitmproxy import http

from mitmproxy_moesif.event.address import plain_peer
from mitmproxy_moesif.event.exchange import Fields

FOR, PROTO, HOST, PORT = b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Forwarded-Port"
_FOR = FOR.lower()
_KEPT = {name.lower(): name for name in (PROTO, HOST, PORT)}
_LENGTHS = {len(FOR), *map(len, _KEPT), len(b"Host")}


class Forwarded:
    """`X-Forwarded-*` toward the upstream. Stands behind the capture: the event shows what the client sent.

    The peer is appended to `X-Forwarded-For`, all of its lines in one, as nginx's `$proxy_add_x_forwarded_for` does.
    Proto, Host and Port are set where they are absent, each for itself, as Kong does for peers that it trusts: a load
    balancer before us that ends TLS knows better. A client without one before it can therefore say there what it likes.
    Host is the name alone, in lower case and without port, as Kong sends it.
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
    """The headers with those about the client; all others untouched and in their order.

    `authority` is what HTTP/2 has instead of `Host`, `port` the one that the client connected to.
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
    """As nginx has it in `$host`: lower case, without port and last dot, an IPv6 address in its brackets."""
    address, bracket, _ = host.partition(b"]")
    name = address + bracket if host.startswith(b"[") and bracket else host.partition(b":")[0]
    return name.lower().removesuffix(b".")
