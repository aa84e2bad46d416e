"""Gives other connections a turn while one of them sends what is costly to handle.

mitmproxy handles all that it has read from a connection at once, and reads on without a pause while there is more.
Some 64 kB are 10,000 messages of a WebSocket or 5,000 frames of HTTP/2, and more of them may follow: nobody else was
served for seconds. Here they are handled in pieces, each of which takes about as long as a turn may take, and the event
loop gets a turn in between.

Connections that speak HTTP/1 have no `Share`: it is HTTP/2 and WebSockets whose frames may be this small.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

from mitmproxy.connection import Client, Connection
from mitmproxy.proxy import commands, events, server
from mitmproxy.proxy.layers.tls import TLSLayer
from OpenSSL import SSL

from mitmproxy_moesif.capture import windows
from mitmproxy_moesif.speedups.replacing import replacement

TURN = 0.005
"""Seconds that a client and its upstreams may use before others get a turn."""

FIRST = 2048
"""Bytes that are handled at once before it is known how long they take."""

SMALLEST, LARGEST = 256, 65_536
"""Bounds of the bytes that are handled at once."""

SHARE = "_moesif_share"
"""The attribute of mitmproxy's client object that holds its `Share`."""


class Share:
    """How much is handled at once of what a client and its upstreams send."""

    def __init__(self) -> None:
        self.size = FIRST
        self.spent = 0.0
        self.rest: dict[Connection, bytes] = {}
        """Data that was read and waits."""
        self.encrypted: set[Connection] = set()
        """Connections of whose data some waits in OpenSSL."""
        self.later = 0
        """Events that wait in a layer, which goes on by itself. Nothing more is read meanwhile."""

    def first(self, event: events.DataReceived) -> events.DataReceived:
        """The part of the data that is handled now."""
        if len(event.data) <= self.size:
            return event
        self.rest[event.connection] = event.data[self.size :]
        return events.DataReceived(event.connection, event.data[: self.size])

    def next(self, connection: Connection) -> events.DataReceived | None:
        """What waits of a connection; None if nothing does."""
        if connection in self.encrypted:
            self.encrypted.discard(connection)
            return events.DataReceived(connection, b"")
        data = self.rest.pop(connection, None)
        return None if data is None else events.DataReceived(connection, data)

    def count(self, seconds: float) -> None:
        """How long a part took."""
        self.spent += seconds
        if seconds > TURN:
            self.size = max(SMALLEST, self.size // 2)
        elif seconds < TURN / 4:
            self.size = min(LARGEST, self.size * 2)


class Decrypted:
    """The `recv` of a TLS connection that gives as much as is handled at once.

    mitmproxy calls it until it raises, and gives the upper layer all of it together.
    """

    def __init__(self, tls: SSL.Connection, share: Share, connection: Connection) -> None:
        self._stock = tls.recv
        self._share = share
        self._connection = connection
        self._given = 0

    def __call__(self, size: int) -> bytes:
        room = self._share.size - self._given
        if room <= 0:
            self._given = 0
            self._share.encrypted.add(self._connection)
            raise SSL.WantReadError
        try:
            data: bytes = self._stock(min(size, room))
        except SSL.Error:
            self._given = 0
            raise
        self._given += len(data)
        return data


def share(client: Client) -> Share:
    """Let this client's connections take turns from now on."""
    if (has := share_of(client)) is None:
        has = Share()
        setattr(client, SHARE, has)
    return has


def share_of(client: Client) -> Share | None:
    return getattr(client, SHARE, None)


async def server_event(handler: server.ConnectionHandler, event: events.Event) -> None:
    """mitmproxy calls this for whatever happens on a connection, and awaits it before it reads more."""
    has = share_of(handler.client)
    if has is None or not isinstance(event, events.DataReceived | events.Wakeup):
        await _stock_server_event(handler, event)
        return
    if isinstance(event, events.DataReceived):
        event = has.first(event)
    started = time.perf_counter()
    await _stock_server_event(handler, event)
    has.count(time.perf_counter() - started)


async def drain_writers(handler: server.ConnectionHandler) -> None:
    """mitmproxy awaits this after each read: the rest of what was read is handled here."""
    await windows.drain_writers(handler)
    has = share_of(handler.client)
    if has is None:
        return
    while True:
        while has.later or has.spent >= TURN:
            has.spent = 0.0
            await asyncio.sleep(0)
        event = waiting(handler, has)
        if event is None:
            return
        await handler.server_event(event)
        await windows.drain_writers(handler)


def waiting(handler: server.ConnectionHandler, has: Share) -> events.DataReceived | None:
    """What waits of the connection that this task reads."""
    if not has.rest and not has.encrypted:
        return None
    task = asyncio.current_task()
    for connection, io in handler.transports.items():
        if io.handler is task:
            return has.next(connection)
    return None


def receive_data(layer: TLSLayer, data: bytes) -> Generator[commands.Command, Any, None]:
    """Called first at the end of the handshake, with which HTTP/2's first frames may have come."""
    has = share(layer.context.client) if layer.conn.alpn == b"h2" else share_of(layer.context.client)
    if has is not None and not isinstance(layer.tls.recv, Decrypted):
        layer.tls.recv = Decrypted(layer.tls, has, layer.conn)  # type: ignore[method-assign, assignment]
    return _stock_receive_data(layer, data)


_stock_server_event = server.ConnectionHandler.server_event
_stock_receive_data = TLSLayer.receive_data

REPLACEMENTS = (
    replacement(server.ConnectionHandler, "server_event", server_event),
    replacement(server.ConnectionHandler, "drain_writers", drain_writers),
    replacement(TLSLayer, "receive_data", receive_data),
)
