"""Connections that mitmproxy's handlers lend to the lane, before anything is read or after a TLS handshake.

mitmproxy's layers do the TLS handshake with a client, with their hooks and settings. If the client then speaks HTTP/1,
the layer above TLS is never started, and the lane serves the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers import ClientTLSLayer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.tls import HTTP1_ALPNS
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from mitmproxy_moesif.lane.handover import feed
from mitmproxy_moesif.lane.tls import ClientTls
from mitmproxy_moesif.speedups.inline import InlineHandler

if TYPE_CHECKING:
    from mitmproxy_moesif.lane.client import ClientEnd
    from mitmproxy_moesif.lane.opening import Lane

SPEAKS_HTTP1 = (None, b"", *HTTP1_ALPNS)
"""The ALPN results with which a client speaks HTTP/1; None or empty means no ALPN."""


class Lent:
    """A connection from which nothing has been read, because the handler's task starts eagerly."""

    is_secured = False

    def __init__(self, handler: InlineHandler) -> None:
        self.handler = handler
        io = handler.transports[handler.client]
        assert isinstance(io.reader, asyncio.StreamReader)
        assert isinstance(io.writer, asyncio.StreamWriter)
        self.reader = io.reader
        self.transport: Any = io.writer.transport
        self._protocol = self.transport.get_protocol()
        self.has_ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def client(self, _transport: asyncio.BaseTransport) -> Client:
        return self.handler.client

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, is_full: bool) -> None:
        self.handler.is_known = True
        self._give_back(is_full=is_full)
        feed(transport, self.reader, data)

    def left(self) -> None:
        self._end(ended=True)

    def _give_back(self, *, is_full: bool) -> None:
        self.transport.set_protocol(self._protocol)
        if is_full:
            self._protocol.pause_writing()
        self._end(ended=False)

    def _end(self, *, ended: bool) -> None:
        if not self.has_ended.done():
            self._return_place()
            self.has_ended.set_result(ended)

    def _return_place(self) -> None:
        """Put the handler back into mitmproxy's connections, because mitmproxy will remove it from there."""
        ctx.master.addons.get("proxyserver").connections[self.handler.client.id] = self.handler

    async def until_end(self) -> bool:
        """Wait. True if the connection ended here, false if it was handed over. Closed if this task is cancelled."""
        try:
            return await self.has_ended
        except asyncio.CancelledError:
            self._return_place()
            self.transport.close()
            raise


class Release(events.Event):
    """Tells `Held` to pass its events on to the layer above."""


class Held:
    """Replaces the layer above TLS. Queues events until they are released or taken."""

    def __init__(self, above: layer.Layer) -> None:
        self._above = above
        self._events: list[events.Event] = []
        self._is_held = True

    def handle_event(self, event: events.Event) -> Iterator[commands.Command]:
        if isinstance(event, Release):
            self._is_held = False
            for each in self._events:
                yield from self._above.handle_event(each)
        elif self._is_held:
            self._events.append(event)
        else:
            yield from self._above.handle_event(event)

    @property
    def has_begun(self) -> bool:
        """Whether the layer above would have started, that is, the handshake is over."""
        return bool(self._events)

    def let_go(self) -> None:
        """Pass everything on, from the start."""
        self._is_held = False

    def take(self) -> tuple[bytes, bool]:
        """The data that the client has sent, and whether it has closed its side."""
        came, self._events = self._events, [events.Start()]
        data = b"".join(event.data for event in came if isinstance(event, events.DataReceived))
        return data, any(isinstance(event, events.ConnectionClosed) for event in came)

    def put_back(self, client: Client, data: bytes, *, has_ended: bool) -> None:
        if data:
            self._events.append(events.DataReceived(client, data))
        if has_ended:
            self._events.append(events.ConnectionClosed(client))


class Secured(Lent):
    """A connection after its TLS handshake."""

    is_secured = True

    def __init__(self, handler: InlineHandler, below: ClientTLSLayer) -> None:
        super().__init__(handler)
        self._tls = below.tls
        self.held = Held(below.child_layer)

    async def carry(self, end: ClientEnd) -> None:
        """Serve the connection until it ends or is handed over to mitmproxy's layers."""
        if not self.held.has_begun:  # a hook is still running: mitmproxy's layers serve this connection
            self.held.let_go()
            return
        io = self.handler.transports.get(self.handler.client)
        if io is None or io.handler is not asyncio.current_task():
            # A hook had to be awaited, so the task that reads the connection may already have data meant for the lane.
            await self.handler.server_event(Release())
            return
        if self.transport.is_closing():
            return
        tls = ClientTls(end, self.handler.client, self._tls, self.transport)
        self.transport.set_protocol(tls)
        end.connection_made(tls)
        data, has_ended = self.held.take()
        if data:
            end.data_received(data)
        # If the lane has already handed the connection over, the layers get all further data.
        if not self.has_ended.done() and (data := take(self.reader)):
            tls.data_received(data)
        if not self.has_ended.done() and (has_ended or self.reader.at_eof()):
            end.eof_received()
        if await self.until_end():
            self.reader.feed_eof()
        else:
            await self.handler.server_event(Release())

    def hand_over(self, _transport: asyncio.Transport, data: bytes, *, is_full: bool) -> None:
        """TLS reports the end of its stream only once, so it is queued for the layers here. TCP reports it again."""
        client, has_ended = self.handler.client, bool(self._tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN)
        if has_ended:
            client.state &= ~ConnectionState.CAN_READ
        self.held.put_back(client, data, has_ended=has_ended)
        self._give_back(is_full=is_full)
        feed(self.transport, self.reader, b"")


def take(reader: asyncio.StreamReader) -> bytes:
    """The data in the reader's buffer, which is cleared."""
    data = bytes(reader._buffer)  # type: ignore[attr-defined]  # noqa: SLF001
    reader._buffer.clear()  # type: ignore[attr-defined]  # noqa: SLF001
    reader._maybe_resume_transport()  # type: ignore[attr-defined]  # noqa: SLF001
    return data


def carry_on(lane: Lane, data: TlsData) -> None:
    """Let the lane serve a client's connection after the TLS handshake, if it can."""
    client = data.conn
    handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
    if not (isinstance(client, Client) and isinstance(handler, InlineHandler) and client.alpn in SPEAKS_HTTP1):
        return
    if client not in handler.transports:
        return  # it was closed while a hook was running
    found = (each for each in data.context.layers if isinstance(each, ClientTLSLayer | HttpLayer))
    below = next(found, None)
    if not isinstance(below, ClientTLSLayer) or not isinstance(below.child_layer, HttpLayer):
        return  # TLS within HTTP, or something else within TLS
    secured = Secured(handler, below)
    if (end := lane.open(secured, client.proxy_mode)) is not None:
        below.child_layer = secured.held  # type: ignore[assignment]  # has all methods of a layer that are used
        handler.carry = partial(secured.carry, end)
