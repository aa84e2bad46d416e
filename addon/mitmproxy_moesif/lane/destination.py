"""What a connection toward the upstream was opened to: it serves requests for the same alone."""

from __future__ import annotations

from mitmproxy.connection import Client, Server
from mitmproxy.http import Request

type Destination = tuple[str, int, str | None]
"""Host, port, and the name that TLS asks for there; None without TLS."""


def destination_of(request: Request, client: Client, upstream: Server) -> Destination:
    """Of a request as hooks have left it; `upstream` is the one that is configured. As mitmproxy's layers choose."""
    host, port = request.data.host, request.data.port
    if request.data.scheme != b"https":
        return host, port, None
    is_configured = (host, port) == upstream.address
    return host, port, (is_configured and (upstream.sni or client.sni)) or host
