"""What HTTP/2 connections of clients and of upstreams must not do.

The table of sent headers is limited. The peer says how large it may become, up to 4 GB, and all of it is searched for
each header.

Empty DATA frames are skipped. mitmproxy treats one like any piece of a body. Toward HTTP/1, an empty piece is the last
chunk: the message ended there, and the next piece was read as the start of another one (request smuggling). Stream
callables get an empty piece only at the end of a body, so the event was wrong too.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import h2.events
import hpack
from mitmproxy.connection import Connection
from mitmproxy.proxy import commands
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import _http2

from mitmproxy_moesif.speedups.replacing import replacement

TABLE = 4096
"""Maximum bytes of the table of headers sent on a connection: the default of HTTP/2."""


class Encoder(hpack.Encoder):
    """hpack's, with a table of at most `TABLE` bytes, whatever the peer allows."""

    @property
    def header_table_size(self) -> int:
        return int(self.header_table.maxsize)

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, TABLE)
        if size == self.header_table.maxsize:
            return  # hpack would forget that it has yet to tell the peer of an earlier change
        self.header_table.maxsize = size
        if self.header_table.resized:
            self.table_size_changes.append(size)


def create(end: _http2.Http2Connection, context: Context, conn: Connection) -> None:
    _stock_init(end, context, conn)
    end.h2_conn.encoder = Encoder()


def handle_h2_event(end: _http2.Http2Connection, event: h2.events.Event) -> Generator[commands.Command, Any, bool]:
    """mitmproxy's own, except for a frame without data in the middle of a body. Its padding is acknowledged."""
    if isinstance(event, h2.events.DataReceived) and is_empty(end, event):
        end.h2_conn.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        return False
    return (yield from _stock(end, event))


def is_empty(end: _http2.Http2Connection, event: h2.events.DataReceived) -> bool:
    in_body = end.streams.get(event.stream_id) is _http2.StreamState.HEADERS_RECEIVED
    return in_body and not event.data and event.stream_ended is None


_stock_init = _http2.Http2Connection.__init__
_stock = _http2.Http2Connection.handle_h2_event

REPLACEMENTS = (
    replacement(_http2.Http2Connection, "__init__", create),
    replacement(_http2.Http2Connection, "handle_h2_event", handle_h2_event),
)
