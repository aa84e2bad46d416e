"""Graceful shutdown: no new connections are accepted, exchanges in flight finish, idle connections are closed."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress

from mitmproxy import ctx, http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionIO

from mitmproxy_moesif.capture.windows import has_unread
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.lane.client import ClientEnd
from mitmproxy_moesif.lifecycle import client_transport, tell_requests, telling_unless_soon, until
from mitmproxy_moesif.log import log

LOOK_EVERY = 0.05
"""Seconds between two checks for connections that have become idle."""


class Drain:
    """Comes before the capture in the addon order, so that exchanges end first. `aborted` ends the wait at once.

    `seconds` is the maximum wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.draining = False
        self.aborted = asyncio.Event()

    async def done(self) -> None:
        server: Proxyserver = ctx.master.addons.get("proxyserver")
        self.draining = True
        await server.servers.update([])
        ctx.master.addons.add(SayClose())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.seconds
        busy, when = 0, until(self.seconds)
        with telling_unless_soon(lambda: tell_requests(busy, when)):
            while (busy := close_idle(server)) and not self.aborted.is_set() and loop.time() < deadline:
                await wait(self.aborted, LOOK_EVERY)
        if busy:
            why = "as asked" if self.aborted.is_set() else "--drain-timeout is over"
            log.warning("moesif-proxy: %s under way, cut: %s", number_of(busy, "request"), why)
        if self.aborted.is_set():  # the capture installs its signal handlers next, and must not wait either
            loop.call_soon(signal.raise_signal, signal.SIGTERM)


class SayClose:
    """Adds `Connection: close`, so that clients stop reusing their connections."""

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if flow.response is not None and not flow.request.is_http2 and flow.response.status_code >= 200:
            flow.response.headers["Connection"] = "close"


def close_idle(server: Proxyserver) -> int:
    """Close the connections without an exchange in flight or unsent data. Returns how many others there are."""
    busy = 0
    for handler in list(server.connections.values()):
        if is_busy(handler) or is_unsent(handler):
            busy += 1
        else:
            end_connection(handler)
    return busy


def end_connection(handler: ProxyConnectionHandler | ClientEnd) -> None:
    """Close a connection. mitmproxy cannot do so while the connect hook runs, because nothing reads it yet."""
    io = handler.transports.get(handler.client)
    if isinstance(io, ConnectionIO) and io.handler is None:
        assert isinstance(io.writer, asyncio.StreamWriter)
        io.writer.close()
    elif io is not None:
        handler.close_connection(handler.client)


def is_busy(handler: ProxyConnectionHandler | ClientEnd) -> bool:
    """Whether an exchange is in flight. Connections that do not speak HTTP are not waited for.

    HTTP layers keep a stream for each exchange until they have the whole response. Over HTTP/2, some of the response
    may then still wait for the client's flow-control window.
    """
    if isinstance(handler, ClientEnd):
        return handler.is_busy
    streams = any(layer.streams for layer in handler.layer.context.layers if isinstance(layer, HttpLayer))
    return streams or has_unread(handler.client)


def is_unsent(handler: ProxyConnectionHandler | ClientEnd) -> bool:
    """Whether response data is still unsent."""
    if isinstance(handler, ClientEnd):
        return handler.is_unsent
    transport = client_transport(handler)
    return transport is not None and transport.get_write_buffer_size() > 0


async def wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
