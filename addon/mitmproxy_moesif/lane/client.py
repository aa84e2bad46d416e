"""A client's connection. Pipelined requests are queued, and reading pauses when too much is buffered."""

from __future__ import annotations

import asyncio
import logging
import re
import select
import time
from typing import TYPE_CHECKING, Protocol

from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import server_hooks
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.mode_specs import ReverseMode
from mitmproxy.proxy.server import logger
from mitmproxy.utils import human

from mitmproxy_moesif.capture.engine import MAX_DISCARDED, MAX_HEAD
from mitmproxy_moesif.lane.bodies import Body, Chunked, Fixed
from mitmproxy_moesif.lane.exchange import Exchange, crashed
from mitmproxy_moesif.lane.heads import end_of_head, may_begin_head, request_body, request_of
from mitmproxy_moesif.lane.writing import AT_ONCE, Writing

if TYPE_CHECKING:
    from mitmproxy_moesif.lane.opening import Lane

NEWLINE = b"\r\n"
BLANK_LINES = re.compile(rb"(?:\r?\n)+")
"""Blank lines before a request line, which are skipped."""


LINGER = 5.0
"""Seconds that a client has to close its side after the last response."""

ENDED_PATIENCE = 5.0
"""Seconds of inactivity after which a half-closed client connection is assumed to be dead."""


class Place(Protocol):
    """What a connection was accepted by."""

    is_secured: bool
    """Whether mitmproxy's layers did a TLS handshake. They then also log, and call hooks, at connect and disconnect."""

    def client(self, transport: asyncio.BaseTransport) -> Client:
        """mitmproxy's object for the client. Called once."""
        ...

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, is_full: bool) -> None:
        """Hand the connection and the unprocessed `data` to mitmproxy's layers. `is_full`: writing is paused."""
        ...

    def left(self) -> None:
        """Called when the connection has ended in the lane."""
        ...


class ClientEnd(Writing, asyncio.Protocol):
    """A client's connection. `unconnected` stands for the upstream until there is a connection to it."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_begun",
        "_body",
        "_buffer",
        "_discarded",
        "_has_ended",
        "_is_reading",
        "_lingering",
        "_looked",
        "_place",
        "_unsent",
        "active",
        "client",
        "exchange",
        "idle_since",
        "is_closing",
        "is_full",
        "lane",
        "unconnected",
    )

    client: Client
    unconnected: Server

    def __init__(self, lane: Lane, place: Place) -> None:
        super().__init__()
        self.lane = lane
        self._place = place
        self._buffer = b""
        self._looked = self._unsent = self._discarded = 0
        self._begun = 0.0
        self._asked = 0
        self._body: Chunked | Fixed | None = None
        self._is_reading = self._has_ended = self.is_full = self.is_closing = False
        self._lingering: asyncio.TimerHandle | None = None
        self.exchange: Exchange | None = None
        self.active, self.idle_since = True, 0.0

    # From asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is of no class of asyncio's
        self.client = self._place.client(transport)
        mode = self.client.proxy_mode
        assert isinstance(mode, ReverseMode)
        self.unconnected = Server(address=mode.address, tls=mode.scheme == "https")
        self.lane.opened(self)
        if self._place.is_secured:
            return
        self.log("client connect")
        rest = self.lane.run(server_hooks.ClientConnectedHook, self.client)
        if rest is None:
            self._connected()
        else:
            self._is_reading = True  # process nothing until the hook has ended
            asyncio.get_running_loop().call_soon(lambda: self.pause(wanted=True))  # uvloop starts to read after this
            self.lane.keep(rest, self._connected, self.abort)

    def _connected(self) -> None:
        self._is_reading = False
        if self.client.error:
            self.log("client kill connection")
            self.close()
        self.go_on()

    def data_received(self, data: bytes) -> None:
        if self.is_closing:
            self._discard(len(data))
            return
        self.active = True
        self._buffer = self._buffer + data if self._buffer else data
        if not self._begun:
            self._begun = time.time()
        self.go_on()

    def eof_received(self) -> bool:
        """A half-closed client may still read: it gets the responses to its complete requests (RFC 9112, 9.6)."""
        self._has_ended = True
        self.go_on()
        return self._lingering is None  # if false, asyncio closes the connection now

    def connection_lost(self, _error: Exception | None) -> None:
        self.client.state = ConnectionState.CLOSED
        if self._lingering is not None:
            self._lingering.cancel()
        self._end_of_stream()
        if not self._place.is_secured:
            self.log("client disconnect")
            self.client.timestamp_end = time.time()
            self.lane.tell(server_hooks.ClientDisconnectedHook, self.client)
        self.lane.closed(self)
        self._place.left()

    def _end_of_stream(self) -> None:
        exchange, body = self.exchange, self._body
        self.exchange = self._body = None
        self.is_closing = True
        if exchange is None:
            return
        try:
            if body is not None:
                body.end_of_stream()
            exchange.client_left()
        except ValueError as error:
            exchange.client_left(str(error))

    def pause_writing(self) -> None:
        self.is_full = True
        self.regulate()

    def resume_writing(self) -> None:
        self.is_full = False
        self.go_on()

    # Received data

    def go_on(self) -> None:
        """Process buffered data until something has to be waited for."""
        if self._is_reading:
            return
        self._is_reading = True
        try:
            for _ in range(AT_ONCE):
                if self.is_closing or not self._read():
                    break
            else:
                asyncio.get_running_loop().call_soon(self.go_on)
        except Exception:  # noqa: BLE001 - an addon's error in a stream is logged as mitmproxy does
            crashed(self)
            self.abort()
        finally:
            self._is_reading = False
        self.flush()
        if self.exchange is not None:
            self.exchange.flush()
        self.regulate()

    def _read(self) -> bool:
        """Do one step; true if another may follow."""
        exchange = self.exchange
        if exchange is None:
            return not self.is_full and self._read_next()
        if self._body is None or exchange.is_waiting:
            return False
        return self._read_body(exchange, self._body)

    def _read_next(self) -> bool:
        if self.lane.is_over:
            self.hand_over()
        elif self._buffer and self._read_head():
            return True
        elif self._has_ended and not self.is_closing:
            self.close()
        return False

    def _read_head(self) -> bool:
        buffer = self._buffer
        if buffer[0] in NEWLINE and (blank := BLANK_LINES.match(buffer)) is not None:
            buffer = self._buffer = buffer[blank.end() :]
            if not buffer:
                return False
        found = end_of_head(buffer, max(0, self._looked - 3))
        if found is None:
            self._looked = len(buffer)
            if len(buffer) > MAX_HEAD:
                self._refuse_head()
            elif not may_begin_head(buffer):
                self.hand_over()
            return False
        end, behind = found
        if end > MAX_HEAD:
            self._refuse_head()
            return False
        assert self.unconnected.address is not None
        host, port = self.unconnected.address[:2]
        scheme = b"https" if self.unconnected.tls else b"http"
        read = None if self.lane.unserved else request_of(buffer[:end], host, port, self._begun, scheme)
        if read is None:
            self.hand_over()
            return False
        request, found_framing = read
        self._buffer = buffer[behind:]
        self._looked = 0
        self._begun = 0.0
        self._asked += 1
        self.lane.exchanges += 1
        self._body = request_body(found_framing)
        self.exchange = exchange = Exchange(self, request, found_framing)
        exchange.begin()
        return True

    def _read_body(self, exchange: Exchange, body: Body) -> bool:
        if not exchange.has_body:
            self._body = None
            exchange.request_end(None)
            return True
        try:
            if self._buffer:
                body.feed(self._buffer)
                self._buffer = b""
            piece = body.next()
            if piece is None and self._has_ended:
                self.client.state &= ~ConnectionState.CAN_READ
                body.end_of_stream()
        except ValueError as error:
            exchange.client_left(str(error))
            self.close()
            return False
        if piece is None:
            return False
        if piece:
            exchange.request_data(piece)
            return True
        self._buffer = body.rest()
        self._body = None
        exchange.request_end(body.trailers)
        return True

    def has_whole_body(self) -> bool:
        """Whether the request's whole body has arrived. Called when its head has been read."""
        if self._body is None:
            return True
        self._body.feed(self._buffer)
        self._buffer = b""
        return self._body.is_whole()

    def has_left(self) -> bool:
        """Whether a half-closed client no longer reads either: the connection was reset after a write."""
        if not self._has_ended or self.is_closing:
            return False
        self.flush()
        gone = select.poll()
        gone.register(self.transport.get_extra_info("socket").fileno(), 0)
        return bool(gone.poll(0))

    def announced(self) -> int:
        return self._body.size if type(self._body) is Fixed else 0

    def _refuse_head(self) -> None:
        self.log(f"{human.format_address(self.client.peername)}: the head of a request is over {MAX_HEAD} bytes")
        self.send(_http1.make_error_response(431))
        self.close()

    # Called by an exchange

    def done(self, *, close: bool) -> None:
        """The exchange has ended without an error."""
        self.exchange = None
        if close:
            self.close()
        if self._buffer:
            self._begun = time.time()
        self.go_on()

    def close(self) -> None:
        """Close the connection once all data has been sent."""
        self.is_closing = True
        self.flush()
        if self._has_ended:
            self.transport.close()
        elif self._lingering is None and not self.transport.is_closing():
            self._linger()

    def _linger(self) -> None:
        """Close our side and read until the client closes its own (RFC 9112, 9.6), or sends too much.

        If unread data is left at close, the OS resets the connection, and the client may lose the end of the response.
        """
        self._buffer, self._body = b"", None
        self.transport.write_eof()
        self.pause(wanted=False)
        self._lingering = asyncio.get_running_loop().call_later(LINGER, self._end_lingering)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MAX_DISCARDED:
            self.transport.close()

    def _end_lingering(self) -> None:
        if self.is_unsent:
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self._end_lingering)
        else:
            self.transport.close()

    def abort(self) -> None:
        self.is_closing = True
        self.transport.abort()

    def hand_over(self) -> None:
        """Hand the connection over to mitmproxy's layers, with the data that was read but not processed."""
        self.is_closing = True
        self.flush()
        self.lane.closed(self)
        data, self._buffer = self._buffer, b""  # so that `progress` reports nothing here
        self._place.hand_over(self.transport, data, is_full=self.is_full)

    def look(self, now: float, patience: float) -> None:
        """Abort the connection after `patience` idle seconds on both sides, unless a hook is running.

        `now` is the loop's time. Data that is still unsent by then never will be, so it is dropped.
        """
        patience = min(patience, ENDED_PATIENCE) if self._has_ended else patience
        unsent = self.transport.get_write_buffer_size()
        if self.active or unsent != self._unsent or (self.exchange is not None and self.exchange.awaits_hook):
            self.active, self.idle_since = False, now
        elif now - self.idle_since >= patience:
            self.log(f"Closing connection due to inactivity: {self.client}")
            self.abort()
        self._unsent = unsent

    # For code that handles all connections of the proxy

    @property
    def is_busy(self) -> bool:
        return self.exchange is not None and not self.is_closing

    @property
    def is_unsent(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    @property
    def progress(self) -> tuple[int, bool]:
        """The number of requests so far, and whether another has started to arrive."""
        return self._asked, bool(self._buffer)

    @property
    def transports(self) -> dict[Client, ClientEnd]:
        return {} if self.is_closing else {self.client: self}

    @property
    def writer(self) -> ClientEnd:
        """Itself: mitmproxy's handlers have a `writer` with a `transport`."""
        return self

    def close_connection(self, _client: Client) -> None:
        self.close()

    def log(self, message: str, level: int = logging.INFO) -> None:
        logger.log(level, message, extra={"client": self.client.peername})

    def regulate(self) -> None:
        """Backpressure: pause reading one side while the other is full, or while too much is buffered."""
        exchange = self.exchange
        upstream = exchange.upstream if exchange is not None else None
        waits = (exchange is None or self._body is None or exchange.is_waiting) and len(self._buffer) > MAX_HEAD
        is_full = upstream.is_full if upstream is not None else exchange is None and self.is_full
        self.pause(wanted=waits or is_full)
        if upstream is not None:
            upstream.pause(wanted=self.is_full or upstream.holds_much)
