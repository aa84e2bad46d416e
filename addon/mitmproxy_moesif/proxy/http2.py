"""What mitmproxy's HTTP/2 takes too strictly for a reverse proxy, mended toward the upstream.

A header value of an answer that has a blank at its end (or start) ends in a 502: it is passed on without.

A stream that the upstream resets is said to be reset by the client: its event told of a client that had left.

Streams that wait for room on a connection are forgotten where it ends: their clients waited for ever.
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
    """Takes blanks from around the values."""

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        return [type(header)(header[0], header[1].strip(BLANK)) for header in super().decode(data, raw=raw)]


class Client(Http2Client):
    """Toward the upstream."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        stock = self.h2_conn.decoder
        self.h2_conn.decoder = TrimmingDecoder(stock.max_header_list_size)

    def close_connection(self, msg: str) -> CommandGenerator[None]:
        waiting = tuple(self.stream_queue)
        self.stream_queue.clear()
        yield from super().close_connection(msg)
        for number in waiting:
            self.their_stream_id[-number] = number  # a number of the upstream's, which they never got, becomes theirs
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
