"""Fixes for mitmproxy's HTTP/2 connections to upstreams.

- A response header value with a leading or trailing blank causes a 502. Here the value is trimmed.
- If the upstream resets a stream, mitmproxy says that the client did. The event then reported a client disconnect.
- Streams that wait for a free slot on a connection are forgotten if it ends, so that their clients wait forever.
"""

from __future__ import annotations

from collections.abc import Iterable

from h2.events import Event, StreamReset
from hpack import Decoder, HeaderTuple
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import ResponseProtocolError
from mitmproxy.proxy.layers.http._http2 import Http2Client

from mitmproxy_moesif.speedups.replacing import replacement

BLANK = b" \t"


class TrimmingDecoder(Decoder):
    """Strips blanks around header values."""

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        return [type(header)(header[0], header[1].strip(BLANK)) for header in super().decode(data, raw=raw)]


class Client(Http2Client):
    """The connection to an upstream."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        stock = self.h2_conn.decoder
        self.h2_conn.decoder = TrimmingDecoder(stock.max_header_list_size)

    def close_connection(self, msg: str) -> CommandGenerator[None]:
        waiting = tuple(self.stream_queue)
        self.stream_queue.clear()
        yield from super().close_connection(msg)
        for number in waiting:
            self.their_stream_id[-number] = number  # these streams never got an id on the connection, so make one up
            yield ReceiveHttp(ResponseProtocolError(-number, msg, ResponseProtocolError.code))

    def handle_h2_event(self, event: Event) -> CommandGenerator[bool]:
        if not isinstance(event, StreamReset):
            return (yield from super().handle_h2_event(event))
        for command in super().handle_h2_event(event):
            if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseProtocolError):
                command.event.message = command.event.message.replace("by client", "by upstream")
            yield command
        return False


REPLACEMENTS = (replacement(http_layers, "Http2Client", Client),)
