"""The destination of an upstream connection, which serves only requests for the same destination."""

from __future__ import annotations

from mitmproxy.connection import Client, Server
from mitmproxy.http import Request

type Destination = tuple[str, int, str | None]
"""Host, port, and the TLS server name (SNI), which is None without TLS."""


def destination_of(request: Request, client: Client, upstream: Server) -> Destination:
    """The destination of a request, after any changes by hooks; `upstream` is the configured one. As in mitmproxy."""
    host, port = request.data.host, request.data.port
    if request.data.scheme != b"https":
        return host, port, None
    is_configured = (host, port) == upstream.address
    return host, port, (is_configured and (upstream.sni or client.sni)) or host
