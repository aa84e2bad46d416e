"""Skips empty DATA frames of HTTP/2, of clients and of upstreams.

mitmproxy treats one like any piece of a body. Toward HTTP/1, an empty piece is the last chunk: the message ended there,
and the next piece was read as the start of another one (request smuggling). Stream callables get an empty piece only at
the end of a body, so the event was wrong too.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import h2.events
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import _http2

from mitmproxy_moesif.speedups.replacing import replacement


def handle_h2_event(end: _http2.Http2Connection, event: h2.events.Event) -> Generator[commands.Command, Any, bool]:
    """mitmproxy's own, except for a frame without data in the middle of a body. Its padding is acknowledged."""
    if isinstance(event, h2.events.DataReceived) and is_empty(end, event):
        end.h2_conn.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        return False
    return (yield from _stock(end, event))


def is_empty(end: _http2.Http2Connection, event: h2.events.DataReceived) -> bool:
    in_body = end.streams.get(event.stream_id) is _http2.StreamState.HEADERS_RECEIVED
    return in_body and not event.data and event.stream_ended is None


_stock = _http2.Http2Connection.handle_h2_event

REPLACEMENTS = (replacement(_http2.Http2Connection, "handle_h2_event", handle_h2_event),)
