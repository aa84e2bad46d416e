"""Turns mitmproxy's flows into plain exchanges: what is done to a flow in each phase, and the snapshot at its end.

Which hooks fire differs from case to case (the upstream refuses the connection, the client disconnects, the flow is
killed, another addon sets a response). This rule gives exactly one event per exchange: an exchange is opened in
`requestheaders` and closed by the first of `response` (for a WebSocket: `websocket_end`) and `error`. Those still open
are closed when the client's connection ends, or else when the proxy ends.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

from mitmproxy import http

from mitmproxy_moesif.capture.engine import Hold
from mitmproxy_moesif.capture.failure import failed_before_answer, failure, is_complete, status_seen
from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.capture.responses import GATE_REFUSED, Refusal
from mitmproxy_moesif.capture.tee import RequestTee, Tee
from mitmproxy_moesif.capture.upgrades import Messages
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.policy import EventPolicy
from mitmproxy_moesif.event import kong_headers
from mitmproxy_moesif.event.address import is_trusted, plain_peer
from mitmproxy_moesif.event.exchange import NO_BODY, Exchange, Fields, Payload, RoutableRequest
from mitmproxy_moesif.event.headers import flatten, text
from mitmproxy_moesif.recent.notes import Note, shown_line

TRANSACTION_HEADER = b"X-Moesif-Transaction-Id"
_TRANSACTION_KEY = TRANSACTION_HEADER.lower()
_PRINTABLE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")

BLOCKED_BY = "moesif_blocked_by"
"""Key in a flow's metadata: the rule that blocked it. Set only if flows are shown or saved."""

BODY_FIELDS = frozenset({b"content-length", b"transfer-encoding"})
BODY_FIELD_LENGTHS = frozenset(map(len, BODY_FIELDS))


def open_exchange(flow: http.HTTPFlow, instance: Instance) -> PendingExchange:
    """The access phase: register the exchange and set the transaction id on the request.

    A client's transaction id is forwarded unchanged. The event gets its own id: a client that sends the same id twice
    would merge two events into one.
    """
    fields, sent = flow.request.headers.fields, _sent_id(flow.request.headers.fields)
    entry = PendingExchange(flow, instance, with_host(flow), live=flow.live, refused=flow.error is not None)
    ours = flow.id.encode()  # a saved flow that was captured has this id in its headers
    if sent not in (None, ours) and _TRANSACTION_KEY.decode() not in instance.policy.request.header_masks:
        entry.metadata["client_transaction_id"] = sent.decode()
    if not instance.settings.disable_transaction_id:
        entry.header = sent or ours
        if entry.live and sent is None:
            flow.request.headers.fields = with_transaction_id(fields, entry.header)
            entry.request_headers = with_host(flow)
    return entry


def with_host(flow: http.HTTPFlow) -> Fields:
    """The request's headers as an HTTP/1 upstream gets them: for HTTP/2 and later, `:authority` becomes Host."""
    fields, data = flow.request.headers.fields, flow.request.data
    if not data.authority or data.http_version.startswith(b"HTTP/1") or b"host" in flow.request.headers:
        return fields
    return ((b"Host", data.authority), *fields)


def leave_out(flow: http.HTTPFlow, instance: Instance, why: str) -> PendingExchange:
    """An exchange that is only counted."""
    fields, refused = flow.request.headers.fields, flow.error is not None
    return PendingExchange(flow, instance, fields, live=flow.live, refused=refused, left_out=why, passive=True)


def routable(flow: http.HTTPFlow) -> RoutableRequest:
    """The parts of a request that decide its route."""
    data = flow.request.data
    scheme, sni = "https" if flow.client_conn.tls else "http", flow.client_conn.sni
    return RoutableRequest(
        data.method, data.path, data.authority, flow.request.headers.fields, peer_of(flow), scheme, sni
    )


def peer_of(flow: http.HTTPFlow) -> str:
    """The client's IP address; empty if unknown, as in a saved flow."""
    return plain_peer(flow.client_conn.peername[0]) if flow.client_conn.peername else ""


def stream_request(entry: PendingExchange, flow: http.HTTPFlow) -> None:
    """Put a tee on the request's body, unless a response is already set: streaming would then crash mitmproxy.

    There is no tee if there cannot be a body, so that other addons can still change such a request in `request`.
    """
    if entry.live and flow.response is None and flow.error is None and not flow.request.stream and has_body(flow):
        entry.request_tee = flow.request.stream = RequestTee(_limit(entry.instance, request=True), flow)


def hold_request(entry: PendingExchange, flow: http.HTTPFlow, release: Callable[[], None]) -> None:
    """Hold the body for rules. Calls `release` if it turns out to exceed their limit."""
    flow.request.stream = Hold(entry.instance.policy.request.body.limit, release)  # type: ignore[assignment]


def has_body(flow: http.HTTPFlow) -> bool:
    """Whether a body may follow. In HTTP/1 one of two fields announces it; later versions need no field."""
    if flow.request.data.http_version not in (b"HTTP/1.1", b"HTTP/1.0"):
        return True
    for name, _ in flow.request.headers.fields:
        if len(name) in BODY_FIELD_LENGTHS and name.lower() in BODY_FIELDS:
            return True
    return False


def open_response(entry: PendingExchange, flow: http.HTTPFlow, *, stream: bool) -> None:
    """The header_filter phase: add the transaction id and the rules' headers to the response, and tee its body."""
    response = flow.response
    if response is None or not entry.live:
        return
    if entry.header is not None:
        response.headers.fields = with_transaction_id(response.headers.fields, entry.header)
    if entry.rule_headers:
        names = {name.lower() for name, _ in entry.rule_headers}
        kept = tuple(item for item in response.headers.fields if item[0].lower() not in names)
        response.headers.fields = kept + entry.rule_headers
    if stream and not response.stream and response.status_code != 101:
        entry.response_tee = response.stream = Tee(_limit(entry.instance, request=False))


def _limit(instance: Instance, *, request: bool) -> int:
    side = instance.captured.request if request else instance.captured.response
    return side.body.limit if side.body.capture else -1


def with_transaction_id(fields: Fields, value: bytes) -> Fields:
    """The headers with exactly this transaction id; all other headers stay unchanged."""
    for name, _ in fields:
        if len(name) == len(_TRANSACTION_KEY) and name.lower() == _TRANSACTION_KEY:
            fields = tuple(item for item in fields if item[0].lower() != _TRANSACTION_KEY)
            break
    return (*fields, (TRANSACTION_HEADER, value))


def _sent_id(fields: Fields) -> bytes | None:
    """The client's transaction id, if it sent exactly one and that is printable and at most 128 bytes long."""
    sent = [value for name, value in fields if len(name) == len(_TRANSACTION_KEY) and name.lower() == _TRANSACTION_KEY]
    return sent[0] if len(sent) == 1 and _PRINTABLE.fullmatch(sent[0]) else None


def is_kongs_to_retry(flow: http.HTTPFlow, policy: EventPolicy) -> bool:
    """Whether the exchange failed in a way that a Kong in front of us would retry if we close the connection.

    A response of ours would hide the failure from Kong: no `retries`, no passive health checks.
    """
    if not flow.live or not failed_before_answer(flow):
        return False
    trusted = policy.trusts_all or is_trusted(peer_of(flow), policy.trusted)
    headers = flatten(flow.request.headers.fields)
    return kong_headers.position(policy.position, headers, {}, trusted=trusted) is kong_headers.Position.BEHIND


class End(NamedTuple):
    """The status that the client saw, the cause of a failure in one word, and the end in seconds since 1970."""

    status: int | None
    cause: str | None
    at: float


def end_of(entry: PendingExchange, *, failed: bool = False, left_over: str = "unfinished") -> End:
    """`failed`: it ended in the `error` hook or was left over. `left_over` is the cause if there is no other."""
    flow = entry.flow
    cause = failure(flow, refused=entry.refused) or (
        left_over if failed and flow.error is None and not is_complete(flow) else None
    )
    if cause is not None:
        entry.metadata["error"] = cause
    status, response = status_seen(entry, cause, failed=failed), flow.response
    complete = response is not None and status == response.status_code
    return End(status, cause, (response.timestamp_end if response and complete else None) or time.time())


def snapshot(entry: PendingExchange, end: End) -> Exchange:
    """The log phase: a snapshot of an ended exchange. It only holds references; nothing is parsed or copied."""
    flow, request = entry.flow, entry.flow.request
    if entry.unanswered:
        entry.metadata["left_to_kong"] = True
    if (refused := flow.metadata.get(GATE_REFUSED)) is not None:
        entry.metadata.setdefault("error", refused)
    if flow.websocket is not None:
        entry.metadata["websocket"] = _websocket(flow)
    exchange = Exchange(
        transaction_id=flow.id,
        scheme="https" if flow.client_conn.tls else "http",
        authority=_authority(flow),
        method=text(request.data.method),
        target=request.data.path,
        http_version=text(request.data.http_version),
        peer=peer_of(flow),
        started=request.timestamp_start,
        request_headers=entry.request_headers,
        request_body=_request_payload(entry),
        blocked_by=entry.blocked_by,
        kong=entry.kong,
        metadata=entry.metadata,
    )
    _add_response(exchange, entry, end)
    exchange.size = _weigh(exchange)
    return exchange


def note(entry: PendingExchange, end: End, cause: str) -> Note:
    """A note of an exchange that is not captured."""
    request, debug = entry.flow.request, entry.instance.settings.debug
    line = shown_line(entry.instance, text(request.data.method), _authority(entry.flow), request.data.path)
    return Note(entry.flow.id, request.timestamp_start, end.at, *line, end.status, cause, debug)


def _add_response(exchange: Exchange, entry: PendingExchange, end: End) -> None:
    response = entry.flow.response
    if end.status is None:
        return
    exchange.status, exchange.ended = end.status, end.at
    if response is None or end.status != response.status_code:
        return  # mitmproxy's own error page: none of the upstream's headers were sent
    exchange.response_headers = response.headers.fields
    if response.trailers is not None:
        exchange.response_trailers = response.trailers.fields
    exchange.response_body = _payload(entry.response_tee, response, _limit(entry.instance, request=False))
    if end.cause is not None and exchange.response_body.omitted is None and entry.live:
        exchange.response_body = Payload((), "incomplete")


def _request_payload(entry: PendingExchange) -> Payload:
    response = entry.flow.response
    if isinstance(response, Refusal) and response.unread:
        return Payload((), "incomplete")
    return _payload(entry.request_tee, entry.flow.request, _limit(entry.instance, request=True))


def _payload(tee: Tee | None, message: http.Message, limit: int) -> Payload:
    """What the tee kept, or the buffered content if the tee was never called."""
    content = message.raw_content
    if content is None:
        return tee.payload() if tee is not None else NO_BODY
    if tee is not None and tee.size:
        return tee.payload()
    if not content:
        return NO_BODY
    return Payload([content]) if len(content) <= limit else Payload((), "too_large", len(content))


def _weigh(exchange: Exchange) -> int:
    """The approximate memory of an exchange, in bytes."""
    fields = exchange.request_headers + exchange.response_headers + exchange.response_trailers
    texts = sum(map(len, chain.from_iterable(fields)))
    bodies = sum(map(len, chain(exchange.request_body.chunks, exchange.response_body.chunks)))
    return 1000 + 100 * len(fields) + texts + bodies


def _authority(flow: http.HTTPFlow) -> str:
    """The host as the client sent it, or else the address that the client connected to."""
    request = flow.request
    if request.data.authority:
        return text(request.data.authority)
    for name, value in request.headers.fields:
        if len(name) == 4 and name.lower() == b"host":
            return text(value)
    host, port = flow.client_conn.sockname[:2] if flow.client_conn.sockname else (request.data.host, request.data.port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _websocket(flow: http.HTTPFlow) -> dict[str, object]:
    assert flow.websocket is not None
    messages: list[Any] = flow.websocket.messages
    counted = messages if isinstance(messages, Messages) else Messages(0, messages)
    return {
        "messages_from_client": counted.from_client,
        "messages_from_server": counted.from_server,
        "bytes": counted.size,
        "close_code": None if flow.websocket.close_code is None else int(flow.websocket.close_code),
    }
