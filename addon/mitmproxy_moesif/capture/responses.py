"""Answers in place of the upstream's."""

from __future__ import annotations

import time

from mitmproxy import http
from mitmproxy.net.http import status_codes

from mitmproxy_moesif.governance.rules import Blocked

ANNOUNCED = "jwt_gate"
"""In a flow's metadata: headers, by name, that its answer gets whatever the upstream sends."""

BODILESS = frozenset({204, 205, 304})


class Refusal(http.Response):
    """An answer in place of the upstream's.

    `unread`: it was given before the request's body had come, of which so many bytes were `discarded` since.
    """

    unread = False
    discarded = 0


def blocked_response(block: Blocked, *, head: bool) -> Refusal:
    """A whole answer with the framing that belongs to it; to HEAD without the body that its length tells of."""
    fields = [(name.encode(), value.encode()) for name, value in block.headers]
    body = b"" if block.status in BODILESS else block.body
    if block.status not in BODILESS:
        fields.append((b"Content-Length", b"%d" % len(body)))
    now = time.time()
    reason = status_codes.RESPONSES.get(block.status, "").encode()
    content = b"" if head else body
    return Refusal(b"HTTP/1.1", block.status, reason, http.Headers(fields), content, None, now, now)


def refusal(status: int, text: str = "", *, head: bool = False) -> Refusal:
    """An answer after which the connection ends."""
    headers = (("Content-Type", "text/plain"), ("Connection", "close"))
    return blocked_response(Blocked("", status, headers, text.encode()), head=head)


def replace_answer(response: http.Response, answer: http.Response) -> None:
    """Put another answer, without a body, in the place of an upstream's, whose body is yet to come and discarded."""
    response.data = answer.data
    response.headers["Content-Length"], response.headers["Connection"] = "0", "close"
    response.stream = _nothing


def _nothing(_data: bytes) -> bytes:
    return b""
