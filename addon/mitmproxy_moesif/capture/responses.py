"""Responses of our own, in place of the upstream's."""

from __future__ import annotations

import json
import re
import time

from mitmproxy import http
from mitmproxy.net.http import status_codes

from mitmproxy_moesif.governance.rules import BODILESS_STATUSES, Blocked

ANNOUNCED = "jwt_gate"
"""Key in a flow's metadata: headers, by name, that its response gets whatever the upstream sends."""

GATE_REFUSED = "jwt_gate_refused"
"""Key in a flow's metadata: why the JWT gate refused it, as reported in the event."""

TRANSACTION_ID = "moesif_transaction_id"
"""Key in a flow's metadata: the transaction id to set on an error page."""

MESSAGES = {
    400: "Bad request",
    413: "Payload too large",
    431: "Request header or cookie too large",
    502: "An invalid response was received from the upstream server",
}
"""Kong's messages. They reveal nothing about what is behind the proxy."""

_JSON = re.compile(r"application/(?:[\w.-]+\+)?json\b", re.IGNORECASE)


class Refusal(http.Response):
    """A response in place of the upstream's.

    `unread`: it was sent before the request's body was read. `discarded`: bytes of that body thrown away since.
    """

    unread = False
    discarded = 0


def blocked_response(block: Blocked, *, head: bool) -> Refusal:
    """A complete response with its Content-Length. With `head`, the body is left out but its length is kept."""
    fields = [(name.encode(), value.encode()) for name, value in block.headers]
    body = b"" if block.status in BODILESS_STATUSES else block.body
    if block.status not in BODILESS_STATUSES:
        fields.append((b"Content-Length", b"%d" % len(body)))
    now = time.time()
    reason = status_codes.RESPONSES.get(block.status, "").encode()
    content = b"" if head else body
    return Refusal(b"HTTP/1.1", block.status, reason, http.Headers(fields), content, None, now, now)


def own_answer(status: int, message: str, request: http.Request | None, *headers: tuple[str, str]) -> Refusal:
    """A response of our own: text, or Kong's JSON if the client accepts JSON. `request` is None if it is unreadable."""
    kind, body = "text/plain", message
    if request is not None and _JSON.search(request.headers.get("accept", "")):
        kind, body = "application/json; charset=utf-8", json.dumps({"message": message})
    head = request is not None and request.method.upper() == "HEAD"
    return blocked_response(Blocked("", status, (("Content-Type", kind), *headers), body.encode()), head=head)


def refusal(status: int, request: http.Request | None = None, message: str = "") -> Refusal:
    """A response of our own that closes the connection."""
    return own_answer(status, message or MESSAGES.get(status, ""), request, ("Connection", "close"))


def failure_page(status: int, flow: http.HTTPFlow | None) -> Refusal:
    """Replaces mitmproxy's own error page, which names addresses or quotes heads."""
    answer = refusal(status, flow.request if flow is not None else None)
    if flow is not None and TRANSACTION_ID in flow.metadata:
        answer.headers["X-Moesif-Transaction-Id"] = flow.metadata[TRANSACTION_ID]
    return answer


def replace_answer(response: http.Response, answer: http.Response) -> None:
    """Replace an upstream's response with `answer`, without a body. The upstream's body is discarded as it arrives."""
    response.data = answer.data
    response.headers["Content-Length"], response.headers["Connection"] = "0", "close"
    response.stream = _nothing


def _nothing(_data: bytes) -> bytes:
    return b""
