"""WebSockets and other upgraded connections: their messages are counted and discarded.

mitmproxy keeps all messages until the connection ends, and buffers each message until it is complete. Here a bounded
list replaces them, and large WebSocket messages are forwarded in pieces as they arrive.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import wsproto.extensions
from mitmproxy import connection
from mitmproxy.http import HTTPFlow
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import websocket
from wsproto import ConnectionType
from wsproto.events import Event, Message
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

from mitmproxy_moesif.capture import turns
from mitmproxy_moesif.speedups.replacing import replacement

KEPT = 100_000
"""Bytes of a connection's messages that are kept if flows are shown or saved."""

LARGEST = 1_000_000
"""Size in bytes above which a WebSocket message is forwarded in pieces."""

OVERHEAD = 200
"""Approximate memory of a message or frame in addition to its content, in bytes."""

SLICE = 2048
"""Bytes of compressed frames that are processed at once: they may decompress to a thousand times their size."""


class Content(Protocol):
    from_client: bool
    content: bytes


class Messages(list[Any]):
    """Keeps about `limit` bytes of messages, and always the newest, because hooks expect it at the end of the list.

    `continues`: the next message is a piece of an unfinished one.
    """

    def __init__(self, limit: int, messages: Iterable[Content] = ()) -> None:
        super().__init__()
        self.from_client = self.from_server = self.size = 0
        self.continues = False
        self._room = limit
        for message in messages:
            self.append(message)

    def append(self, message: Content) -> None:
        self._count(message)
        if self and self._room < 0:
            self[-1] = message
        else:
            super().append(message)
        self._room -= len(message.content) + OVERHEAD

    def _count(self, message: Content) -> None:
        self.size += len(message.content)
        if self.continues:
            self.continues = False
        elif message.from_client:
            self.from_client += 1
        else:
            self.from_server += 1


class Deflate(PerMessageDeflate):
    """wsproto's permessage-deflate, which does not read all that RFC 7692 allows.

    - A ping between the frames of a compressed message made it forget that the message is compressed.
    - After a block that is marked as the last one, it kept all that follows and gave out nothing.
    - A window of 8 bits, a quoted one, and one without a value caused an exception: nobody was answered any more.
    """

    _in_control_frame = False

    def finalize(self, offer: str) -> None:
        """`offer` is what the upstream has agreed to. What cannot be read counts as the default."""
        given = (each.lower().partition("=") for each in offer.split(";")[1:])
        names = {name.strip(): value for name, _, value in given}
        self.client_no_context_takeover = "client_no_context_takeover" in names
        self.server_no_context_takeover = "server_no_context_takeover" in names
        self.client_max_window_bits = window_bits(names.get("client_max_window_bits", ""))
        self.server_max_window_bits = window_bits(names.get("server_max_window_bits", ""))
        self._enabled = True

    def frame_inbound_header(self, proto: Any, opcode: Opcode, rsv: RsvBits, payload_length: int) -> Any:
        self._in_control_frame = opcode.iscontrol()
        if self._in_control_frame:
            return RsvBits(rsv1=False, rsv2=False, rsv3=False)  # it may set none of them
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> Any:
        if self._in_control_frame:
            return data
        given: Any = super().frame_inbound_payload_data(proto, data)
        while self._inbound_compressed and self._decompressor is not None and self._decompressor.eof:
            rest = self._decompressor.unused_data
            bits = self.server_max_window_bits if proto.client else self.client_max_window_bits
            self._decompressor = zlib.decompressobj(-bits)
            more: Any = super().frame_inbound_payload_data(proto, rest)
            if isinstance(more, CloseReason):
                return more
            given += more
        return given

    def frame_inbound_complete(self, proto: Any, fin: bool) -> Any:
        return None if self._in_control_frame else super().frame_inbound_complete(proto, fin)


def window_bits(value: str) -> int:
    """The bits that zlib gets. It has no window of 8; what it compresses for one of 9 fits it."""
    bits = value.strip().strip('"')
    return min(max(int(bits), 9), 15) if re.fullmatch("[0-9]{1,2}", bits) else 15


class Connection(websocket.WebsocketConnection):
    """One end of a WebSocket. `messages` and `peer` are set before any data arrives."""

    messages: list[Any]
    peer: Connection
    held = 0
    continues = False

    def __init__(self, kind: ConnectionType, extensions: list[Extension], conn: connection.Connection) -> None:
        super().__init__(kind, extensions[:1], conn=conn)  # twice permessage-deflate would decompress twice

    def events(self) -> Iterator[Event]:
        for event in super().events():
            yield self._piece(event) if isinstance(event, Message) else event

    def _piece(self, event: Message[Any]) -> Message[Any]:
        """The event, changed to end the message if the message has become too large."""
        self.held += len(event.data) + OVERHEAD
        self.continues = not event.message_finished and self.held > LARGEST
        if self.continues:
            event = replace(event, frame_finished=True, message_finished=True)
            if isinstance(self.messages, Messages):
                self.messages.continues = True
        if event.message_finished:
            self.held = 0
        return event

    def send2(self, event: Event) -> commands.SendData:
        if isinstance(event, Message) and self.peer.continues:
            event = replace(event, message_finished=False)
        return super().send2(event)


class Layer(websocket.WebsocketLayer):
    """Both ends of a WebSocket."""

    client_ws: Connection
    server_ws: Connection

    def __init__(self, context: Context, flow: HTTPFlow) -> None:
        super().__init__(context, flow)
        self._share = turns.share(context.client)
        self._later: deque[events.Event] = deque()
        """What came together with the upgrade waits here, as far as it is more than is handled at once."""

    def relay_messages(self, event: events.Event) -> Generator[commands.Command, Any, None]:
        assert self.flow.websocket is not None
        for end, peer in ((self.client_ws, self.server_ws), (self.server_ws, self.client_ws)):
            end.peer, end.messages = peer, self.flow.websocket.messages
        if isinstance(event, events.Wakeup):
            event = self._later.popleft()
        elif self._later:
            self._later.append(event)
            self._share.later = len(self._later)
            return
        if isinstance(event, events.DataReceived) and len(event.data) > self._share.size:
            data, size = event.data, self._share.size
            self._later.appendleft(events.DataReceived(event.connection, data[size:]))
            event = events.DataReceived(event.connection, data[:size])
        yield from self._relay(event)
        if self._handle_event == self.done:
            self._later.clear()
        self._share.later = len(self._later)
        if self._later:
            yield commands.RequestWakeup(0)

    def _relay(self, event: events.Event) -> Generator[commands.Command, Any, None]:
        assert self.flow.response is not None
        compressed = "sec-websocket-extensions" in self.flow.response.headers
        if compressed and isinstance(event, events.DataReceived) and len(event.data) > SLICE:
            for start in range(0, len(event.data), SLICE):
                if self._handle_event == self.done:
                    return
                yield from super().relay_messages(
                    events.DataReceived(event.connection, event.data[start : start + SLICE])
                )
        else:
            yield from super().relay_messages(event)


REPLACEMENTS = (
    replacement(wsproto.extensions, "PerMessageDeflate", Deflate),
    replacement(websocket, "WebsocketConnection", Connection),
    replacement(websocket, "WebsocketLayer", Layer),
)
