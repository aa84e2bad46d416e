"""Fixes for mitmproxy's HTTP/2 connections to upstreams.

- A response header value with a leading or trailing blank causes a 502. Here the value is trimmed.
- If the upstream resets a stream, mitmproxy says that the client did. The event then reported a client disconnect.
- The number of each stream of the client's is kept until the connection ends.
- Streams that wait for a free slot on a connection are forgotten if it ends, so that their clients wait forever.
"""

from __future__ import annotations

from collections.abc import Iterable

from h2.events import Event, StreamReset
from hpack import Decoder, HeaderTuple
from mitmproxy.proxy import events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestHeaders, ResponseProtocolError
from mitmproxy.proxy.layers.http._http2 import Http2Client

from mitmproxy_moesif.capture import uploads
from mitmproxy_moesif.speedups.replacing import replacement

BLANK = b" \t"

FORGET_AT = 1000
"""Streams of a connection after which those that have ended are forgotten."""


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

        self._forget_at = FORGET_AT

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, RequestHeaders) and len(self.our_stream_id) >= self._forget_at:
            self.forget_ended()
        yield from super()._handle_event(event)

    def forget_ended(self) -> None:
        """Forget the streams that have ended on both sides."""
        client = uploads.layer_of(self.context).streams
        for theirs, ours in list(self.our_stream_id.items()):
            if theirs not in client and ours not in self.h2_conn.streams:
                del self.our_stream_id[theirs], self.their_stream_id[ours]
                self.streams.pop(ours, None)
        self._forget_at = FORGET_AT + 2 * len(self.our_stream_id)

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
