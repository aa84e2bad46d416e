"""WebSockets and other upgraded connections: their messages are counted and let go.

mitmproxy keeps every message of a connection for as long as that lives, and a message until it is whole. Here a list
takes their place that keeps a few; and a large WebSocket message is passed on in pieces as it comes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import websocket
from wsproto.events import Event, Message

from mitmproxy_moesif.speedups.replacing import replacement

KEPT = 100_000
"""Bytes of a connection's messages that are kept where somebody looks."""

LARGEST = 1_000_000
"""Bytes of a WebSocket message after which it is passed on in pieces."""

OVERHEAD = 200
"""About the bytes of a message or frame beside its content."""

SLICE = 2048
"""Bytes of compressed frames that are taken at once: they may become a thousand times as many."""


class Content(Protocol):
    from_client: bool
    content: bytes


class Messages(list[Any]):
    """Keeps `limit` bytes of them, and the newest: hooks are told of a message as the last of this list.

    `continues`: the next is a piece of a message whose end is yet to come.
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


class Connection(websocket.WebsocketConnection):
    """One end of a WebSocket. `messages` and `peer` are set before anything comes."""

    messages: list[Any]
    peer: Connection
    held = 0
    continues = False

    def events(self) -> Iterator[Event]:
        for event in super().events():
            yield self._piece(event) if isinstance(event, Message) else event

    def _piece(self, event: Message[Any]) -> Message[Any]:
        """The same, as if it ended the message where that has become large."""
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
    """Both ends."""

    client_ws: Connection
    server_ws: Connection

    def relay_messages(self, event: events.Event) -> Generator[commands.Command, Any, None]:
        assert self.flow.websocket is not None
        assert self.flow.response is not None
        for end, peer in ((self.client_ws, self.server_ws), (self.server_ws, self.client_ws)):
            end.peer, end.messages = peer, self.flow.websocket.messages
        compressed = "sec-websocket-extensions" in self.flow.response.headers
        if compressed and isinstance(event, events.DataReceived) and len(event.data) > SLICE:
            for start in range(0, len(event.data), SLICE):
                yield from self._handle_event(events.DataReceived(event.connection, event.data[start : start + SLICE]))
        else:
            yield from super().relay_messages(event)


REPLACEMENTS = (
    replacement(websocket, "WebsocketConnection", Connection),
    replacement(websocket, "WebsocketLayer", Layer),
)
