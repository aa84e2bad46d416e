"""Access control of the page: only browsers on this machine, and only this page.

Each request and WebSocket must name a loopback host (against DNS rebinding, where another site's name resolves to
127.0.0.1), and come from this page itself, except for links to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mitmproxy_moesif.web.access import is_same_host, is_used_by_another_site
from mitmproxy_moesif.web.loopback import names_loopback

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Scope]]
type Send = Callable[[Scope], Awaitable[None]]
type App = Callable[[Scope, Receive, Send], Awaitable[None]]

MESSAGE = b"this page only serves its own machine: Host must be a loopback name, and the page its own\n"
POLICY = b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
POLICY += b"img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
HEADERS = [(b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff")]


class LoopbackOnly:
    """ASGI middleware that refuses all other requests."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif not may_pass({name: value.decode("latin-1") for name, value in scope["headers"]}):
            await _refuse(scope, send)
        else:
            await self._app(scope, receive, _with_headers(send))


def may_pass(headers: dict[bytes, str]) -> bool:
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    if is_used_by_another_site(headers.get(b"sec-fetch-site"), headers.get(b"sec-fetch-dest")):
        return False
    return names_loopback(host) and (origin is None or is_same_host(origin, host))


def _with_headers(send: Send) -> Send:
    async def sends(message: Scope) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return sends


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": MESSAGE})
