"""Timeouts for a request's head and for idle keep-alive connections.

In addition, mitmproxy's `tcp_timeout` limits how long a stream may be silent.
"""

from __future__ import annotations

import asyncio
import time
from weakref import WeakKeyDictionary

from mitmproxy import ctx
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Server
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler

from mitmproxy_moesif.lane.client import ClientEnd
from mitmproxy_moesif.proxy.accepting import Room
from mitmproxy_moesif.proxy.drain import end_connection, is_busy

LOOK_EVERY = 1.0
"""Seconds between two checks of all connections."""

AT_ONCE = 200
"""Connections that are checked before the event loop gets a turn."""

WHEN_FULL = 5.0
"""Maximum of both timeouts, in seconds, while other connections wait to be accepted."""


class Patience:
    """Closes connections that time out. `head` and `idle` are in seconds; 0 means no timeout."""

    def __init__(self, head: float, idle: float, room: Room) -> None:
        self._head = head
        self._idle = idle
        self._room = room
        self._since: WeakKeyDictionary[ProxyConnectionHandler, tuple[int, float]] = WeakKeyDictionary()
        self._task: asyncio.Task[None] | None = None

    def running(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    def done(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        server: Proxyserver = ctx.master.addons.get("proxyserver")
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for number, handler in enumerate(list(server.connections.values())):
                if number % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
                self.look(handler, time.monotonic())

    def look(self, handler: ProxyConnectionHandler, now: float) -> None:
        """Close a connection that had no exchange in flight and no further complete request for too long.

        `now` is in monotonic seconds.
        """
        if is_busy(handler):
            self._since.pop(handler, None)
            return
        requests, begun = progress(handler)
        before, since = self._since.get(handler, (-1, now))
        if before != requests:
            self._since[handler] = (requests, now)
            return
        allowed = self._head if begun or not requests else self._idle
        if allowed and self._room.is_full:
            allowed = min(allowed, WHEN_FULL)
        if allowed and now - since >= allowed:
            end_connection(handler)


def progress(handler: ProxyConnectionHandler | ClientEnd) -> tuple[int, bool]:
    """A number that grows with each request, 0 before the first; and whether another has started to arrive."""
    if isinstance(handler, ClientEnd):
        return handler.progress
    for layer in handler.layer.context.layers:
        if isinstance(layer, HttpLayer):
            end = layer.connections.get(handler.client)
            if isinstance(end, Http1Server):
                return end.stream_id // 2, bool(end.buf)
            if isinstance(end, Http2Server):
                return end.h2_conn.highest_inbound_stream_id, False
    return 0, False
