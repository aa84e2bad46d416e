"""What mitmproxy's HTTP/1 gets wrong for a reverse proxy, mended in subclasses of its two ends and of an exchange.

- Trailers end in an exception and a connection that hangs: they are passed on.
- An interim answer (103) of the upstream is taken for the final one: it is passed on, and the final one awaited. No
  hook sees it: what can be read in two ways is refused here.
- After an interim answer a failing upstream is no 502 any more: it is.
- A blank line before a request line ends in an exchange that hangs: it is skipped.
- A request is dated when its head is complete: when its first byte came.
- `Expect: 100-continue` is answered by the proxy: the upstream is asked, and its answer passed on.
- A last chunk follows a 304 that is said to be in chunks: it has no body.
- An HTTP/2 request without Content-Length reaches an HTTP/1 upstream without its body's framing: it goes in chunks.
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
    RequestEndOfMessage,
    RequestHeaders,
    RequestTrailers,
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
        """Where the body is streamed, the upstream says whether to continue. It speaks HTTP/1, as the client does."""
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
    """Toward the client."""

    trailers: http.Headers | None = None
    continued = 0
    """The request that was told to continue."""
    begun: tuple[int, float] = (0, 0.0)
    """The request of which a first piece came, and when."""

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, ResponseTrailers):
            self.trailers = event.trailers
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
        """Whether the client was not told to send its body: nobody knows whether it yet will."""
        expects = self.request is not None and not self.request_done and "expect" in self.request.headers
        return expects and self.continued != self.stream_id

    def ended(self, sending: Commands) -> Commands:
        yield from sending
        yield from self.close()

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        while self.buf._data.startswith((b"\r\n", b"\n")):  # noqa: SLF001
            self.buf.maybe_extract_lines()  # takes such a line, and nothing else
        begun, when = self.begun
        if begun == self.stream_id:
            return dated(super().read_headers(event), when)
        if self.buf:
            self.begun = self.stream_id, time.time()
        return super().read_headers(event)

    def read_body(self, event: events.Event) -> Commands:
        return announcing_trailers(self, super().read_body(event), RequestEndOfMessage, RequestTrailers)


class Client(Http1Client):
    """Toward the upstream."""

    trailers: http.Headers | None = None

    def send(self, event: HttpEvent) -> Commands:
        if isinstance(event, RequestTrailers):
            self.trailers = event.trailers
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
                interim.end_stream = False  # it has no body, and still is not the end
                yield http_layers.SendHttp(interim, self.context.client)
            event = events.DataReceived(self.conn, b"")

    def read_until_interim(
        self, event: events.ConnectionEvent
    ) -> Generator[commands.Command, Any, ResponseHeaders | None]:
        """The interim answer that the buffer begins with. None: what there is of the final one is read."""
        reading = super().read_headers(event)
        for command in reading:
            if (interim := interim_answer(command)) is not None:
                reading.close()  # before it takes the answer for final
                return interim
            yield command
        return None

    def is_wanted(self, status: int, request: http.Request) -> bool:
        """Whether the client can do something with an interim answer."""
        return not request.is_http10 and (status != 100 or "expect" in request.headers)

    def read_body(self, event: events.Event) -> Commands:
        return announcing_trailers(self, super().read_body(event), ResponseEndOfMessage, ResponseTrailers)


def is_interim(response: http.Response) -> bool:
    """Whether another answer follows; 101 is the last that is HTTP."""
    return response.status_code < 200 and response.status_code != 101


def interim_answer(command: commands.Command) -> ResponseHeaders | None:
    if isinstance(command, ReceiveHttp) and isinstance(command.event, ResponseHeaders):
        return command.event if is_interim(command.event.response) else None
    return None


def framed(event: RequestHeaders) -> RequestHeaders:
    """A request that came over HTTP/2 with a body of unknown length, in chunks. The flow's own stays as it is."""
    request = event.request
    if event.end_stream or not (request.is_http2 or request.is_http3) or "content-length" in request.headers:
        return event
    request = request.copy()
    request.headers["Transfer-Encoding"] = "chunked"
    return RequestHeaders(event.stream_id, request, end_stream=False, replay_flow=event.replay_flow)


def dated(reading: Commands, when: float) -> Commands:
    """A head whose first piece came at that time."""
    for command in reading:
        if isinstance(command, ReceiveHttp) and isinstance(command.event, RequestHeaders):
            command.event.request.timestamp_start = when
        yield command


def nothing() -> Commands:
    yield from ()


def without_last_chunk(sending: Commands) -> Commands:
    """A client would take it for the beginning of the next answer."""
    for command in sending:
        if not isinstance(command, commands.SendData):
            yield command


def interim_head(peer: Connection, response: http.Response) -> Commands:
    yield commands.SendData(peer, assemble_response_head(response))


def announcing_trailers(layer: Http1Connection, reading: Commands, end: type[HttpEvent], kind: Any) -> Commands:
    """Put the trailers, where there are any, before the end of the message."""
    reader = layer.body_reader
    return announced(layer, reading, reader, end, kind) if isinstance(reader, ChunkReader) else reading


def announced(
    layer: Http1Connection, reading: Commands, reader: ChunkReader, end: type[HttpEvent], kind: Any
) -> Commands:
    for command in reading:
        if reader.trailers and isinstance(command, ReceiveHttp) and isinstance(command.event, end):
            if layer.context.client.alpn == b"h2":  # where names in upper case are an error
                reader.trailers.fields = tuple((name.lower(), value) for name, value in reader.trailers.fields)
            yield ReceiveHttp(kind(command.event.stream_id, reader.trailers))
        yield command


def with_trailers(sending: Commands, peer: Connection, trailers: http.Headers) -> Commands:
    """The end of a body in chunks with its trailers. A body that is not in chunks has no place for them."""
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
