"""Backpressure from the upstream to the uploads of an HTTP/2 client.

mitmproxy keeps reading from a client while a request waits for an upstream connection, or for the HTTP/2 window of the
upstream. All that the client uploads meanwhile is held in memory. Here each stream of the client has a window of
`WINDOW` bytes, which stays closed while the body waits. Other streams continue.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from h2.connection import H2Connection
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http._http2 import Http2Client

from mitmproxy_moesif.speedups.replacing import replacement

WINDOW = 262_144
"""Bytes that a client may send on one stream before its window is opened again."""


def layer_of(context: Context) -> http_layers.HttpLayer:
    """The HTTP layer of a client connection."""
    return next(each for each in reversed(context.layers) if isinstance(each, http_layers.HttpLayer))


def waits(layer: http_layers.HttpLayer, number: int) -> bool:
    """Whether part of the request on this stream waits for the upstream."""
    if (stream := layer.streams.get(number)) is None:
        return False
    upstream = upstream_of(layer, stream)
    return bool(stream._paused_event_queue) or (  # noqa: SLF001
        upstream is not None
        and (number in upstream.stream_queue or has_frames(upstream, upstream.our_stream_id.get(number, 0)))
    )


def has_frames(upstream: Http2Client, number: int) -> bool:
    return bool(upstream.h2_conn.stream_buffers.get(number))


def upstream_of(layer: http_layers.HttpLayer, stream: http_layers.HttpStream) -> Http2Client | None:
    """The HTTP/2 connection to the upstream, possibly inside a TLS layer; None for other protocols."""
    end: Any = layer.connections.get(stream.context.server)
    while end is not None and not isinstance(end, Http2Client):
        end = getattr(end, "child_layer", None)
    return end


class Windows:
    """The receive windows of one HTTP/2 client."""

    def __init__(self, layer: http_layers.HttpLayer, connection: H2Connection) -> None:
        self.layer = layer
        self.connection = connection
        self.withheld: dict[int, int] = {}
        """Bytes that were received but not acknowledged, by stream."""
        connection.local_settings.initial_window_size = WINDOW
        connection.local_settings.acknowledge()  # like mitmproxy: otherwise the earlier settings are sent

    def withholds(self, number: int, size: int) -> bool:
        """Called when `size` bytes arrive on a stream: whether not to acknowledge them yet."""
        if not waits(self.layer, number):
            return False
        self.withheld[number] = self.withheld.get(number, 0) + size
        return True

    def release(self) -> bytes:
        """WINDOW_UPDATE frames for the streams of which nothing waits any more."""
        for number in [number for number in self.withheld if not waits(self.layer, number)]:
            self.connection.acknowledge_received_data(self.withheld.pop(number), number)
        return self.connection.data_to_send()


WINDOWS = "_moesif_windows"
"""The attribute of an HTTP layer that holds the windows of its client."""


def handle_event(layer: http_layers.HttpLayer, event: events.Event) -> Generator[commands.Command, Any, None]:
    """After each event, open the windows of streams whose data was forwarded."""
    yield from _stock(layer, event)
    windows: Windows | None = getattr(layer, WINDOWS, None)
    if windows is not None and windows.withheld and layer.context.client.connected and (data := windows.release()):
        yield commands.SendData(layer.context.client, data)


_stock = http_layers.HttpLayer._handle_event  # noqa: SLF001

REPLACEMENTS = (replacement(http_layers.HttpLayer, "_handle_event", handle_event),)
