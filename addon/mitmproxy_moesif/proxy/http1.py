"""Fixes for mitmproxy's HTTP/1 in a reverse proxy, as subclasses of its client and server side and of an exchange.

- Trailers cause an exception and a hanging connection. Here they are forwarded.
- An interim response (103) of the upstream is taken for the final one. Here it is forwarded, and the final one awaited.
  No hook sees an interim response, so ambiguous ones are refused here.
- If the upstream fails after an interim response, the client gets no 502. Here it does.
- A blank line before a request line makes the exchange hang. Here it is skipped.
- A request's start time is when its head is complete. Here it is when the first byte arrived.
- `Expect: 100-continue` is answered by the proxy. Here it is sent to the upstream, and its response is forwarded.
- A 304 with `Transfer-Encoding: chunked` is followed by a last chunk. Here it has no body.
- An empty piece of a chunked body, as an addon's stream may return, is taken for the last chunk. Here it is skipped.
- An HTTP/2 request without Content-Length reaches an HTTP/1 upstream without framing. Here its body is sent in chunks.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from mitmproxy import http
from mitmproxy.connection import Connection
from mitmproxy.net.http.http1 import assemble_response_head
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Connection

from mitmproxy_moesif.capture import engine
from mitmproxy_moesif.capture.chunks import ChunkReader
from mitmproxy_moesif.capture.engine import Http1End
from mitmproxy_moesif.lane.exchange import LAST_CHUNK, last_chunk
from mitmproxy_moesif.lane.heads import Framing, why_not_interim
from mitmproxy_moesif.speedups.replacing import replacement

BODILESS = frozenset({204, 304})

type Commands = Generator[commands.Command, Any, None]


class Stream(engine.Stream):
    """One exchange."""

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands:
        heading, request = super().state_wait_for_request_headers(event), event.request
        expected = request.headers.get("expect", "").lower() == "100-continue"
        return self.hand_on(heading) if expected and request.http_version == "HTTP/1.1" else heading

    def hand_on(self, heading: Commands) -> Commands:
        """If the body is streamed, let the upstream answer `Expect`. It speaks HTTP/1, as the client does."""
        reply = None
        while True:
            try:
                command = heading.send(reply)
            except StopIteration:
                return
            event = command.event if isinstance(command, http_layers.SendHttp) else None
            if isinstance(event, ResponseHeaders) and event.response.status_code == 100 and self.flow.request.stream:
                reply = None
                continue
            if isinstance(event, RequestHeaders):
                event.request.headers["Expect"] = "100-continue"
            reply = yield command


class Server(Http1End):
    """The connection to a client."""

    trailers: http.Headers | None = None
    continued = 0
    """The stream id of the request whose client was told to continue."""
    begun: tuple[int, float] = (0, 0.0)
    """The stream id of the request that has started to arrive, and when (seconds since 1970)."""

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, ResponseTrailers):
            self.trailers = event.trailers
            return nothing()
        if isinstance(event, ResponseData) and not event.data:
            return nothing()
        if isinstance(event, ResponseHeaders):
            if is_interim(event.response):
                self.continued = self.stream_id if event.response.status_code == 100 else self.continued
                return interim_head(self.conn, event.response)
            if self.awaits_word():
                event.response.headers["Connection"] = "close"
        sending = super().send(event)
        if isinstance(event, ResponseEndOfMessage):
            if self.response is not None and self.response.status_code in BODILESS:
                sending = without_last_chunk(sending)
            if self.trailers:
                trailers, self.trailers = self.trailers, None
                sending = with_trailers(sending, self.conn, trailers)
            if self.awaits_word():
                sending = self.ended(sending)
        return sending

    def awaits_word(self) -> bool:
        """Whether the client was not told to send its body, so that it is unknown whether it will."""
        expects = self.request is not None and not self.request_done and "expect" in self.request.headers
        return expects and self.continued != self.stream_id

    def ended(self, sending: Commands) -> Commands:
        yield from sending
        yield from self.close()

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        while self.buf._data.startswith((b"\r\n", b"\n")):  # noqa: SLF001
            self.buf.maybe_extract_lines()  # removes exactly this line
        begun, when = self.begun
        if begun == self.stream_id:
            return dated(super().read_headers(event), when)
        if self.buf:
            self.begun = self.stream_id, time.time()
        return super().read_headers(event)

    def read_body(self, event: events.Event) -> Commands:
        return announcing_trailers(self, super().read_body(event), RequestEndOfMessage, RequestTrailers)


class Client(Http1Client):
    """The connection to an upstream."""

    trailers: http.Headers | None = None

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, RequestTrailers):
            self.trailers = event.trailers
            return nothing()
        if isinstance(event, RequestData) and not event.data:
            return nothing()
        if isinstance(event, RequestEndOfMessage) and self.trailers:
            trailers, self.trailers = self.trailers, None
            return with_trailers(super().send(event), self.conn, trailers)
        return super().send(framed(event) if isinstance(event, RequestHeaders) else event)

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        while (interim := (yield from self.read_until_interim(event))) is not None:
            if (why := why_not_interim(interim.response, Framing(is_plain=False))) is not None:
                yield commands.CloseConnection(self.conn)
                yield ReceiveHttp(ResponseProtocolError(interim.stream_id, why, ErrorCode.GENERIC_SERVER_ERROR))
                return
            self.response = None
            if self.request is not None and self.is_wanted(interim.response.status_code, self.request):
                interim.end_stream = False  # it has no body, but the stream does not end here
                yield http_layers.SendHttp(interim, self.context.client)
            event = events.DataReceived(self.conn, b"")

    def read_until_interim(
        self, event: events.ConnectionEvent
    ) -> Generator[commands.Command, Any, ResponseHeaders | None]:
        """The interim response at the start of the buffer. None if there is none; the final head is then read."""
        reading = super().read_headers(event)
        for command in reading:
            if (interim := interim_answer(command)) is not None:
                reading.close()  # before it takes the response for the final one
                return interim
            yield command
        return None

    def is_wanted(self, status: int, request: http.Request) -> bool:
        """Whether an interim response must be forwarded to the client."""
        return not request.is_http10 and (status != 100 or "expect" in request.headers)

    def read_body(self, event: events.Event) -> Commands:
        return announcing_trailers(self, super().read_body(event), ResponseEndOfMessage, ResponseTrailers)


def is_interim(response: http.Response) -> bool:
    """Whether another response follows. After 101 there is no more HTTP."""
    return response.status_code < 200 and response.status_code != 101


def interim_answer(command: commands.Command) -> ResponseHeaders | None:
    if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseHeaders):
        return command.event if is_interim(command.event.response) else None
    return None


def framed(event: RequestHeaders) -> RequestHeaders:
    """Add chunked framing to an HTTP/2 or HTTP/3 request with a body of unknown length. The flow is not changed."""
    request = event.request
    if event.end_stream or not (request.is_http2 or request.is_http3) or "content-length" in request.headers:
        return event
    request = request.copy()
    request.headers["Transfer-Encoding"] = "chunked"
    return RequestHeaders(event.stream_id, request, end_stream=False, replay_flow=event.replay_flow)


def dated(reading: Commands, when: float) -> Commands:
    """Set a request's start time to `when`, in seconds since 1970."""
    for command in reading:
        if isinstance(command, ReceiveHttp) and isinstance(command.event, RequestHeaders):
            command.event.request.timestamp_start = when
        yield command


def nothing() -> Commands:
    yield from ()


def without_last_chunk(sending: Commands) -> Commands:
    """Drop the last chunk: a client would take it for the start of the next response."""
    for command in sending:
        if not isinstance(command, commands.SendData):
            yield command


def interim_head(peer: Connection, response: http.Response) -> Commands:
    yield commands.SendData(peer, assemble_response_head(response))


def announcing_trailers(layer: Http1Connection, reading: Commands, end: type[HttpEvent], kind: Any) -> Commands:
    """Insert the trailers, if there are any, before the end of the message."""
    reader = layer.body_reader
    return announced(layer, reading, reader, end, kind) if isinstance(reader, ChunkReader) else reading


def announced(
    layer: Http1Connection, reading: Commands, reader: ChunkReader, end: type[HttpEvent], kind: Any
) -> Commands:
    for command in reading:
        if reader.trailers and isinstance(command, ReceiveHttp) and isinstance(command.event, end):
            if layer.context.client.alpn == b"h2":  # HTTP/2 forbids upper-case names
                reader.trailers.fields = tuple((name.lower(), value) for name, value in reader.trailers.fields)
            yield ReceiveHttp(kind(command.event.stream_id, reader.trailers))
        yield command


def with_trailers(sending: Commands, peer: Connection, trailers: http.Headers) -> Commands:
    """Add trailers to the last chunk. A body that is not chunked cannot have trailers."""
    for command in sending:
        if isinstance(command, commands.SendData) and command.data == LAST_CHUNK:
            yield commands.SendData(peer, last_chunk(trailers))
        else:
            yield command


REPLACEMENTS = (
    replacement(http_layers, "HttpStream", Stream),
    replacement(http_layers, "Http1Server", Server),
    replacement(http_layers, "Http1Client", Client),
)
