"""Replaces classes of mitmproxy: refused requests are answered at the head, and their bodies are discarded.

mitmproxy reads a whole body before it sends a response that a hook has set. The classes here respond at once and read
up to `MAX_DISCARDED` more bytes, so that a client that sends its body first still gets the response. Then they close
the connection, or reset the stream over HTTP/2. A body that rules wait for is forwarded or refused as soon as it
exceeds their limit. If the upstream closes a reused connection just as a request is sent, the request is retried once
on a new connection, if it is safe to repeat. None of this is installed on untested versions of mitmproxy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import h2.errors
import h2.events
from h2.stream import StreamState
from h11._receivebuffer import ReceiveBuffer, blank_line_regex
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http.http1 import assemble_response
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Server
from mitmproxy.utils import human

from mitmproxy_moesif.capture import chunks, connections, frames, turns, upgrades, uploads, windows
from mitmproxy_moesif.capture.responses import Refusal, failure_page
from mitmproxy_moesif.speedups import versions
from mitmproxy_moesif.speedups.replacing import put_in_place, replacement

MAX_HEAD = 65_536
"""Maximum bytes of a request's head, as is the default of HTTP/2, and of requests that a client pipelines."""

MAX_DISCARDED = 1_000_000
"""Maximum bytes of a refused request's body that are read and discarded."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

ENDS_OF_HEAD = (b"\n\r\n", b"\n\n")
_BARE = re.compile(rb"(?<!\r)\n")

type Commands = Generator[commands.Command, Any, None]


class Hold:
    """Set as a request's `stream`: holds the body up to `limit` bytes, then calls `release`.

    `release` either sets a response or starts streaming. A `Hold` is false, so that mitmproxy buffers the body.
    """

    def __init__(self, limit: int, release: Callable[[], None]) -> None:
        self.limit = limit
        self.release = release

    def __bool__(self) -> bool:
        return False


class Stream(http_layers.HttpStream):
    """One exchange."""

    bodiless = True
    sent_again = False

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands:
        self.bodiless = event.end_stream
        yield from super().state_wait_for_request_headers(event)

    def check_killed(self, emit_error_hook: bool) -> Generator[commands.Command, Any, bool]:
        """mitmproxy calls this first after the `requestheaders` hook."""
        if (yield from super().check_killed(emit_error_hook)):
            return True
        at_head = self.client_state == self.state_wait_for_request_headers
        if at_head and isinstance(self.flow.response, Refusal) and not self.has_ended():
            self.server_state = self.state_wait_for_response_headers
            yield from self.refuse(self.flow.response)
            return True
        return False

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> Commands:
        if isinstance(event, ResponseProtocolError) and self.met_a_closing_connection(event.message):
            self.sent_again = True
            yield from self.send_again()
        else:
            yield from super().handle_protocol_error(event)

    def met_a_closing_connection(self, message: str) -> bool:
        """Whether the upstream closed a reused connection just as a request came that is safe to send twice."""
        request, server = self.flow.request, self.flow.server_conn
        kept = server.timestamp_start is not None and server.timestamp_start < request.timestamp_start
        return (
            (kept and message == "server closed connection" and not self.sent_again)
            and (self.bodiless and not request.raw_content and request.method.upper() in IDEMPOTENT)
            and self.client_state == self.state_done
            and self.server_state == self.state_wait_for_response_headers
        )

    def send_again(self) -> Commands:
        """Send the request again on a new connection."""
        if (yield from self.make_server_connection()):
            yield http_layers.SendHttp(RequestHeaders(self.stream_id, self.flow.request, True), self.context.server)
            yield http_layers.SendHttp(RequestEndOfMessage(self.stream_id), self.context.server)

    def has_ended(self) -> bool:
        """Whether the whole request is there: it has no body, or the body arrived with the head."""
        return self.bodiless or any(isinstance(event, RequestEndOfMessage) for event in self._paused_event_queue)

    def check_body_size(self, request: bool) -> Generator[commands.Command, Any, bool]:
        if (yield from super().check_body_size(request)):
            return True
        hold: object = self.flow.request.stream
        if request and isinstance(hold, Hold) and len(self.request_body_buf) > hold.limit:
            yield from self.release(hold)
        return False

    def release(self, hold: Hold) -> Commands:
        self.flow.request.stream = False
        hold.release()
        if isinstance(self.flow.response, Refusal):
            yield from self.refuse(self.flow.response)
        elif self.flow.request.stream:
            held = bytes(self.request_body_buf)
            self.request_body_buf.clear()
            yield from self.start_request_stream()
            yield from self.handle_event(RequestData(self.stream_id, held))

    def refuse(self, refusal: Refusal) -> Commands:
        """Continue as if the body had ended."""
        refusal.unread = True
        if not self.flow.request.is_http2 and announced(self.flow.request) > MAX_DISCARDED:
            refusal.headers["Connection"] = "close"
        self.request_body_buf.clear()
        yield from self.state_consume_request_body(RequestEndOfMessage(self.stream_id))
        self.client_state = self.state_errored  # ignores further events


def announced(request: http.Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


def page_of(context: Context, event: ResponseProtocolError) -> Refusal | None:
    """The error page for a failed exchange; None if the connection or stream is just closed."""
    if (status := event.code.http_status_code()) is None:
        return None
    layers = (layer for layer in context.layers if isinstance(layer, http_layers.HttpLayer))
    streams = (layer.streams.get(event.stream_id) for layer in layers)
    return failure_page(status, next((stream.flow for stream in streams if stream is not None), None))


def unread_head_page(status_code: int, _message: str = "") -> bytes:
    """The error page for a request whose head cannot be parsed. mitmproxy's own page quotes the head."""
    page: bytes = assemble_response(failure_page(status_code, None))
    return page


def has_bare_line_feed(buffer: ReceiveBuffer) -> bool:
    """Whether the buffer has a complete head with a bare LF. The search starts where h11's own search will start."""
    found = blank_line_regex.search(buffer._data, buffer._multiple_lines_search)  # noqa: SLF001
    return found is not None and _BARE.search(buffer._data, 0, found.end()) is not None  # noqa: SLF001


class Http1End(Http1Server):
    """The connection to an HTTP/1 client."""

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, ResponseProtocolError) and (answer := self.page_for(event)) is not None:
            return self.fail(answer)
        return super().send(event)

    def page_for(self, event: ResponseProtocolError) -> Refusal | None:
        """The error page, or None if it is too late to send one."""
        in_time = self.response is None and self.conn.state & ConnectionState.CAN_WRITE
        return page_of(self.context, event) if in_time else None

    def fail(self, answer: Refusal) -> Commands:
        yield commands.SendData(self.conn, assemble_response(answer))
        yield commands.CloseConnection(self.conn)

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        is_long = isinstance(event, events.DataReceived) and len(self.buf) > MAX_HEAD
        if is_long and not any(end in bytes(self.buf)[:MAX_HEAD] for end in ENDS_OF_HEAD):
            return self.refuse_head(431, f"is over {MAX_HEAD} bytes")
        if has_bare_line_feed(self.buf):
            return self.refuse_head(400, "has a line that ends with LF alone")
        return super().read_headers(event)

    def refuse_head(self, status: int, why: str) -> Commands:
        yield commands.Log(f"{human.format_address(self.conn.peername)}: the head of a request {why}")
        yield commands.SendData(self.conn, unread_head_page(status))
        yield from self.close()

    def wait(self, event: events.Event) -> Commands:
        """Wait for the response. The client may pipeline requests meanwhile, up to `MAX_HEAD` bytes."""
        yield from super().wait(event)
        if len(self.buf) > MAX_HEAD:
            yield commands.CloseConnection(self.conn)

    def read_body(self, event: events.Event) -> Commands:
        if isinstance(event, events.DataReceived) and isinstance(self.response, Refusal) and self.response.unread:
            self.response.discarded += len(event.data)
            if self.response.discarded > MAX_DISCARDED and not self.ends_soon():
                yield from self.close()
                return
        yield from super().read_body(event)

    def ends_soon(self) -> bool:
        """Whether the body has a known length and is read to its end; its last piece may contain the next request."""
        return self.request is not None and 0 < announced(self.request) <= MAX_DISCARDED

    def close(self) -> Commands:
        self.state = self.done
        yield commands.CloseConnection(self.conn)


MOST_STREAMS = 1000
"""Maximum streams per client. HTTP/2 allows 100 open ones, but a client may open another for each one it resets."""


class Http2End(Http2Server):
    """The connection to an HTTP/2 client."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        setattr(context.client, windows.UNSENT, self.h2_conn)
        turns.share(context.client)
        layer = uploads.layer_of(self.context)
        self.windows = uploads.Windows(layer, self.h2_conn)
        setattr(layer, uploads.WINDOWS, self.windows)
        self.refused: set[int] = set()

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, ResponseProtocolError) and (answer := self.page_for(event)) is not None:
            yield from self.fail(event.stream_id, answer)
            return
        if isinstance(event, ResponseHeaders) and isinstance(event.response, Refusal) and event.response.unread:
            self.refused.add(event.stream_id)
        yield from super()._handle_event(event)
        if isinstance(event, ResponseEndOfMessage) and event.stream_id in self.refused:
            self.refused.discard(event.stream_id)
            yield from self.reset(event.stream_id)

    def handle_h2_event(self, event: h2.events.Event) -> Generator[commands.Command, Any, bool]:
        if isinstance(event, h2.events.RequestReceived) and self.kept() >= MOST_STREAMS:
            yield from self.protocol_error("too many requests were given up", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            return True
        if isinstance(event, h2.events.DataReceived):
            size = event.flow_controlled_length or 0
            if self.windows.withholds(event.stream_id, size):
                event.flow_controlled_length = 0  # what is acknowledged
        return (yield from super().handle_h2_event(event))

    def kept(self) -> int:
        """How many streams are open, or were reset by the client but still wait for an upstream connection."""
        return sum(len(each.streams) for each in self.context.layers if isinstance(each, http_layers.HttpLayer))

    def page_for(self, event: ResponseProtocolError) -> Refusal | None:
        """The error page, or None if it is too late to send one."""
        stream = self.h2_conn.streams.get(event.stream_id)
        if stream is None or stream.state_machine.headers_sent or not self.is_open_for_us(event.stream_id):
            return None
        return page_of(self.context, event)

    def fail(self, stream_id: int, answer: Refusal) -> Commands:
        fields = [(name.lower(), value) for name, value in answer.headers.fields if name != b"Connection"]
        self.h2_conn.send_headers(stream_id, [(b":status", b"%d" % answer.status_code), *fields])
        self.h2_conn.send_data(stream_id, answer.raw_content or b"", end_stream=True)
        yield commands.SendData(self.conn, self.h2_conn.data_to_send())

    def reset(self, stream_id: int) -> Commands:
        """Tell the client to stop sending, once the response is complete."""
        stream = self.h2_conn.streams.get(stream_id)
        if stream is not None and stream.state_machine.state is StreamState.HALF_CLOSED_LOCAL:
            self.h2_conn.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
            self.streams.pop(stream_id, None)
            yield commands.SendData(self.conn, self.h2_conn.data_to_send())


REPLACEMENTS = (
    replacement(http_layers, "HttpStream", Stream),
    replacement(http_layers, "Http1Server", Http1End),
    replacement(http_layers, "Http2Server", Http2End),
    replacement(_http1, "make_error_response", unread_head_page),
    *chunks.REPLACEMENTS,
    *connections.REPLACEMENTS,
    *frames.REPLACEMENTS,
    *turns.REPLACEMENTS,
    *upgrades.REPLACEMENTS,
    *uploads.REPLACEMENTS,
)


def install() -> None:
    if versions.untested() is None:
        put_in_place(REPLACEMENTS)
