"""One exchange: mitmproxy's flow, its hooks, and the bytes of both messages, like mitmproxy's `HttpStream`.

Asynchronous hooks are awaited; meanwhile neither message is read any further.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from mitmproxy import flow as flows
from mitmproxy import http
from mitmproxy.net.http.http1 import assemble_response
from mitmproxy.proxy.layers.http._hooks import (
    HttpErrorHook,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
)
from mitmproxy.proxy.server import logger

from mitmproxy_moesif.capture.engine import IDEMPOTENT, MAX_DISCARDED, Hold
from mitmproxy_moesif.capture.responses import Refusal, failure_page
from mitmproxy_moesif.event.exchange import Fields
from mitmproxy_moesif.lane.destination import destination_of
from mitmproxy_moesif.lane.flows import new_flow
from mitmproxy_moesif.lane.heads import (
    Framing,
    framing,
    may_have_body,
    request_head,
    response_head,
    why_invalid,
)

if TYPE_CHECKING:
    from mitmproxy_moesif.lane.client import ClientEnd
    from mitmproxy_moesif.lane.upstream import UpstreamEnd

LAST_CHUNK = b"0\r\n\r\n"
BAD_GATEWAY = 502

CLIENT_LEFT = "Client disconnected."
LAST_HOOKS = frozenset({HttpErrorHook, HttpResponseHook})
HOOK_CANCELLED = "A hook was cancelled."

type Then = Callable[[], None]
type Stream = Callable[[bytes], Iterable[bytes] | bytes] | bool


class Exchange:
    """`is_waiting`: for a hook or a connection. `is_over`: the exchange has ended."""

    __slots__ = (
        "_answered_fields",
        "_answered_framing",
        "_asked_framing",
        "_client_closes",
        "_client_method",
        "_close_after",
        "_collected",
        "_connecting",
        "_fields",
        "_framing",
        "_held",
        "_is_answered",
        "_is_head_sent",
        "_is_request_chunked",
        "_is_response_chunked",
        "_left",
        "_refusal",
        "_sends_body",
        "_size_answered",
        "_size_asked",
        "_streams_request",
        "_streams_response",
        "asked_method",
        "asks_to_close",
        "client",
        "flow",
        "has_body",
        "is_over",
        "is_waiting",
        "reads_interim",
        "request_ended",
        "upstream",
    )

    def __init__(self, client: ClientEnd, request: http.Request, found: Framing) -> None:
        self.client = client
        self.flow = new_flow(client.lane.identifiers.next(), client.client, client.unconnected, request)
        self.has_body = found.has_body
        # What the peers have seen: it counts for them, even if hooks change the flow later.
        self._client_method = self.asked_method = request.data.method
        self._client_closes = found.closes(request.data.http_version)
        self.reads_interim = request.data.http_version != b"HTTP/1.0"
        self._asked_framing = found
        self.asks_to_close = False
        self._fields, self._framing = request.data.headers.fields, found
        self._answered_fields: Fields | None = None
        self._answered_framing = found
        self.upstream: UpstreamEnd | None = None
        self.is_waiting = self.is_over = self.request_ended = False
        self._streams_request = self._streams_response = False
        self._is_request_chunked = self._is_response_chunked = False
        self._is_head_sent = self._is_answered = self._close_after = self._sends_body = False
        self._collected: list[bytes] = []
        self._held = self._size_asked = self._size_answered = 0
        self._connecting: asyncio.Future[UpstreamEnd] | None = None
        self._refusal: Refusal | None = None
        self._left: str | None = None

    # Hooks

    def ask(self, hook: type, then: Then) -> None:
        """Call a hook; call `then` when it has ended."""
        if self.client.out:
            self.client.flush()
        self.flush()
        rest = self.client.lane.run(hook, self.flow)
        if rest is None and not self.flow.intercepted:
            then()
        else:
            self.is_waiting = True
            cancelled = self._end if hook in LAST_HOOKS else self._cancelled
            self.client.lane.keep(resumed(rest, self.flow), lambda: self._go_on(then), lambda: self._go_on(cancelled))

    def flush(self) -> None:
        if self.upstream is not None and self.upstream.out:
            self.upstream.flush()

    def _go_on(self, then: Then) -> None:
        self.is_waiting = False
        try:
            then()
        except Exception:  # noqa: BLE001 - an addon's error in a stream is logged as mitmproxy does
            crashed(self.client)
            self.client.abort()
        if self._left is not None and not self.is_waiting and not self.is_over:
            self._client_failed(self._left)
        self.client.go_on()
        if self.upstream is not None and self.upstream.exchange is self:
            self.upstream.go_on()

    # The request

    def begin(self) -> None:
        self.ask(HttpRequestHeadersHook, self._request_headers_seen)

    def _request_headers_seen(self) -> None:
        flow, request = self.flow, self.flow.request
        if self._is_killed():
            return
        if isinstance(flow.response, Refusal) and self.has_body and not self.client.has_whole_body():
            self._refuse(flow.response)
            return
        if request.stream and self.has_body:
            self._start_request_stream()

    def _start_request_stream(self) -> None:
        if self.flow.response:
            raise NotImplementedError("Can't set a response and enable streaming at the same time.")
        self._streams_request = True
        self._connect(self._send_streamed_head)

    def _connect(self, then: Then, *, fresh: bool = False) -> None:
        client, flow = self.client, self.flow
        pool, wanted = client.lane.pool, destination_of(flow.request, client.client, client.unconnected)
        if flow.server_conn.via is not None:
            self.upstream_failed("moesif_engine=fast goes through no other proxy")
        elif not fresh and (kept := pool.take(wanted)) is not None:
            self._use(kept)
            then()
        else:
            self._connecting = asyncio.ensure_future(pool.open(wanted, client.client))
            self.is_waiting = True
            self._connecting.add_done_callback(lambda done: self._opened(done, then))

    def _opened(self, opening: asyncio.Future[UpstreamEnd], then: Then) -> None:
        failed = None if opening.cancelled() else opening.exception()
        if self._connecting is None or opening.cancelled():  # the client disconnected, or the proxy ends
            if not opening.cancelled() and failed is None:
                opening.result().drop()
            return
        self._connecting = None
        if failed is not None:
            then = partial(self.upstream_failed, str(failed))
        else:
            self._use(opening.result())
        self._go_on(then)

    def _use(self, upstream: UpstreamEnd) -> None:
        upstream.exchange, self.upstream, self.flow.server_conn = self, upstream, upstream.server

    @property
    def awaits_hook(self) -> bool:
        """Whether a hook is running. The idle timeout does not apply to hooks, but it does to opening a connection."""
        return self.is_waiting and self._connecting is None

    def _stop_connecting(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            self.is_waiting = False
            connecting.cancel()

    def _send_streamed_head(self) -> None:
        self._send_request_head()
        held, self._collected = b"".join(self._collected), []
        if held:
            self.request_data(held)

    def request_data(self, data: bytes) -> None:
        if self._refusal is not None:
            self._discard(self._refusal, len(data))
        elif self._streams_request:
            self._pass_on(self.flow.request.stream, data, self._send_request_data)
        else:
            self._collected.append(data)
            self._held += len(data)
            hold: object = self.flow.request.stream
            if isinstance(hold, Hold) and self._held > hold.limit:
                self._release(hold)

    def request_end(self, trailers: http.Headers | None) -> None:
        request = self.flow.request
        if self._refusal is not None:
            self.request_ended = True
            if self._is_answered:
                self._done()
            return
        if trailers:
            request.trailers = trailers
        if self._streams_request:
            self._pass_on(request.stream, b"", self._send_request_data)
            request.data.timestamp_end = time.time()
            self.ask(HttpRequestHook, self._end_streamed_request)
        else:
            self._collect_request()

    def _collect_request(self) -> None:
        data = self.flow.request.data
        data.timestamp_end = time.time()
        data.content = b"".join(self._collected)
        self._collected = []
        self.ask(HttpRequestHook, self._request_seen)

    def _request_seen(self) -> None:
        response = self.flow.response
        self.request_ended = self._refusal is None
        if self._is_killed():
            return
        if response is not None:
            response.timestamp_start = time.time()
            self.ask(HttpResponseHeadersHook, self._own_response_seen)
        else:
            self._connect(self._send_request)

    def _send_request(self) -> None:
        self._send_request_head()
        if content := self.flow.request.data.content:
            self._send_request_data(content)
        self._send_request_end()

    def _end_streamed_request(self) -> None:
        self.request_ended = True
        self._send_request_end()
        if self._is_answered:
            self._done()

    def _send_request_head(self) -> None:
        assert self.upstream is not None
        self._size_asked = 0
        self.asked_method, self._asked_framing = self.flow.request.data.method, self._request_framing()
        self._is_request_chunked = self._asked_framing.is_chunked
        self.asks_to_close = self._closes_connection
        self.upstream.send(request_head(self.flow.request))

    def _send_request_data(self, data: bytes) -> None:
        if self.upstream is not None and data:
            self._size_asked += len(data)
            self.upstream.send(chunk(data) if self._is_request_chunked else data)

    def _send_request_end(self) -> None:
        if self._is_request_chunked and self.upstream is not None:
            self.upstream.send(last_chunk(self.flow.request.trailers))

    def _request_framing(self) -> Framing:
        """The request's framing, after any changes by hooks."""
        fields = self.flow.request.data.headers.fields
        if fields is not self._fields:
            self._fields, self._framing = fields, framing(fields)
        return self._framing

    @property
    def _closes_connection(self) -> bool:
        """Whether the request, after any changes by hooks, is the last on its connection."""
        return self._request_framing().closes(self.flow.request.data.http_version)

    # A body that rules wait for, and a request that is refused

    def _release(self, hold: Hold) -> None:
        request = self.flow.request
        request.stream = False
        hold.release()
        if isinstance(self.flow.response, Refusal):
            self._refuse(self.flow.response)
        elif request.stream:
            self._start_request_stream()

    def _refuse(self, refusal: Refusal) -> None:
        """Respond at once and discard the rest of the body."""
        refusal.unread = True
        self._refusal = refusal
        if self.client.announced() > MAX_DISCARDED:
            refusal.headers["Connection"] = "close"
        self._collected = []
        self._collect_request()

    def _discard(self, refusal: Refusal, size: int) -> None:
        refusal.discarded += size
        if refusal.discarded > MAX_DISCARDED and not 0 < self.client.announced() <= MAX_DISCARDED:
            self.client.close()

    # The response

    def response_began(self, response: http.Response, found: Framing, *, has_body: bool) -> None:
        flow = self.flow
        flow.response = response
        if not found.is_plain and (why := why_invalid(response)) is not None:
            self.upstream_failed(why)
            return
        self._streams_response = has_body
        self._answered_fields, self._answered_framing = response.data.headers.fields, found
        self.ask(HttpResponseHeadersHook, self._response_headers_seen)

    def _response_headers_seen(self) -> None:
        response = self.flow.response
        assert response is not None
        if self._is_killed():
            return
        self._streams_response = self._streams_response and bool(response.stream)
        if self._streams_response:
            self._send_response_head(response)

    def response_data(self, data: bytes) -> None:
        response = self.flow.response
        assert response is not None
        if self._streams_response:
            self._pass_on(response.stream, data, self._send_response_data)
        else:
            self._collected.append(data)

    def response_end(self, trailers: http.Headers | None) -> None:
        response = self.flow.response
        assert response is not None
        if trailers:
            response.trailers = trailers
        if self._streams_response:
            self._pass_on(response.stream, b"", self._send_response_data)
        else:
            response.data.content = b"".join(self._collected)
            self._collected = []
        self._response_complete()

    def _own_response_seen(self) -> None:
        if not self._is_killed():
            self._response_complete()

    def _response_complete(self) -> None:
        response = self.flow.response
        assert response is not None
        if self.client.has_left():
            self.client_left()
            return
        response.data.timestamp_end = time.time()
        self.ask(HttpResponseHook, self._response_seen)

    def _response_seen(self) -> None:
        response = self.flow.response
        assert response is not None
        self._is_answered = True
        if self._is_killed(tell=False):
            return
        if not self._streams_response:
            self._send_response_head(response)
            if content := response.data.content:
                self._send_response_data(content)
        if self.request_ended:
            self._done()

    def _send_response_head(self, response: http.Response) -> None:
        fields = response.data.headers.fields
        if fields is not self._answered_fields:
            self._answered_fields, self._answered_framing = fields, framing(fields)
        found, data = self._answered_framing, response.data
        self._is_head_sent = True
        self._sends_body = may_have_body(self._client_method, data.status_code)
        self._is_response_chunked = found.is_chunked
        self._close_after = (
            found.closes(data.http_version)
            or self._client_closes
            or self._closes_connection
            or (self._sends_body and found.ends_with_connection)
        )
        self.client.send(response_head(response))

    def _send_response_data(self, data: bytes) -> None:
        if data and self._sends_body:
            self._size_answered += len(data)
            self.client.send(chunk(data) if self._is_response_chunked else data)

    def _done(self) -> None:
        """Both messages are complete."""
        response = self.flow.response
        assert response is not None
        self.flow.live = False
        self.is_over = True
        if self._is_response_chunked and self._sends_body:
            self.client.send(last_chunk(response.trailers))
        self._leave_upstream()
        is_as_announced = not self._sends_body or self._answered_framing.announces(self._size_answered)
        self.client.done(close=self._close_after or not is_as_announced)

    # Failures

    def client_left(self, why: str = CLIENT_LEFT) -> None:
        """The client disconnected, or its request is malformed. The caller closes the client's connection."""
        if self.is_over:
            return
        self._stop_connecting()
        if self.is_waiting:
            self._left = self._left or why
        else:
            self._client_failed(why)

    def _client_failed(self, why: str) -> None:
        was_answered = self._is_answered or self._refusal is not None
        self.is_over = True
        self._drop_upstream()
        if was_answered:
            self.flow.live = False
        else:
            self._tell_error(why, self._end)

    def upstream_failed(self, why: str) -> None:
        """The upstream cannot be reached, closed the connection, or sent an invalid response."""
        if self._is_answered:
            self.client.close()
            return
        self._drop_upstream()
        self._tell_error(why, self._answer_failure)

    def _cancelled(self) -> None:
        """A hook was cancelled. It might have refused the exchange, so the exchange ends here."""
        self._drop_upstream()
        self._tell_error(HOOK_CANCELLED, self._end)

    def _tell_error(self, why: str, then: Then) -> None:
        self.flow.error = flows.Error(why)
        self.ask(HttpErrorHook, then)

    def _answer_failure(self) -> None:
        """Send a 502, unless a hook has killed the exchange: then the connection is closed without a response."""
        if not is_killed(self.flow) and not self._is_head_sent and self._left is None:
            self.client.send(assemble_response(failure_page(BAD_GATEWAY, self.flow)))
        self._end()

    def _is_killed(self, *, tell: bool = True) -> bool:
        """Whether a hook has killed the exchange, or the client disconnected meanwhile. If so, ends the exchange."""
        if self._left is not None:
            self.flow.error = self.flow.error or flows.Error(self._left)
        elif self.flow.error is None or not is_killed(self.flow):
            return False
        self.is_over = True
        if tell:
            self.ask(HttpErrorHook, self._end)
        else:
            self._end()
        return True

    def _end(self) -> None:
        """End the exchange without a complete response, and close the client's connection."""
        self.is_over = True
        self.flow.live = False
        self._drop_upstream()
        self.client.close()

    def _leave_upstream(self) -> None:
        """Return the connection to the pool, unless the body sent does not match its head because of a hook.

        Surplus bytes would then become part of another client's request.
        """
        asked = self._asked_framing
        if not asked.is_plain or not asked.announces(self._size_asked):
            self._drop_upstream()
            return
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.release()

    def _drop_upstream(self) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.drop()

    @property
    def may_be_sent_again(self) -> bool:
        request = self.flow.request
        return not self.has_body and request.method.upper() in IDEMPOTENT and not request.raw_content

    def send_again(self) -> None:
        """Retry on a new connection: a reused one was closed before it took the request."""
        self._drop_upstream()
        self._connect(self._send_request, fresh=True)

    def _pass_on(self, stream: Stream, data: bytes, send: Callable[[bytes], None]) -> None:
        """Send a piece through the stream callable that hooks have set; an empty piece marks the end."""
        if not callable(stream):
            send(data)
            return
        pieces = stream(data)
        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
            send(piece)


def is_killed(flow: http.HTTPFlow) -> bool:
    return flow.error is not None and flow.error.msg == flows.Error.KILLED_MESSAGE


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def last_chunk(trailers: http.Headers | None) -> bytes:
    return b"0\r\n%s\r\n" % bytes(trailers) if trailers else LAST_CHUNK


async def resumed(rest: Awaitable[None] | None, flow: http.HTTPFlow) -> None:
    if rest is not None:
        await rest
    await flow.wait_for_resume()


def crashed(client: ClientEnd) -> None:
    logger.exception("mitmproxy has crashed!", extra={"client": client.client.peername})
