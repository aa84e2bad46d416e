"""Refuses message heads that another parser could read differently (request smuggling).

A bare CR, a NUL or a folded line ends a field for one parser and is part of its value for another; if there are two
Host fields, parsers differ in which they use. Such a request gets 400 before anything else looks at it, and such a
response becomes 502.
"""

from __future__ import annotations

import re

from mitmproxy import http

from mitmproxy_moesif.capture.responses import refusal, replace_answer
from mitmproxy_moesif.event.exchange import Fields
from mitmproxy_moesif.log import RateLimitedLog

# Allowed bytes: after deleting them with `translate`, nothing must be left.
VISIBLE = bytes([*range(0x21, 0x7F), *range(0x80, 0x100)])
TEXT = VISIBLE + b" \t"
TOKEN = bytes(byte for byte in VISIBLE if byte < 0x80 and chr(byte) not in '"(),/:;<=>?@[\\]{}')
_HOST = bytes(byte for byte in VISIBLE if byte not in b"/?#@\\,")

MOST_DIGITS = 18
"""Maximum digits of a Content-Length. Longer ones may exceed 64 bits, which parsers read differently."""

_LENGTH = len(b"content-length")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://([^/?#]*)(?:/.*)?", re.DOTALL)

_told = RateLimitedLog()


def ambiguity(message: http.Message) -> str | None:
    """Why the head is ambiguous; None if it is not. The text does not quote the head."""
    if (why := _field_ambiguity(message.headers.fields)) is not None:
        return why
    return _request_ambiguity(message) if isinstance(message, http.Request) else None


def plain_field(line: bytes) -> tuple[bytes, bytes]:
    """The name and value of a header line; the value is not checked. Raises `ValueError` if the line is no field."""
    name, colon, value = line.partition(b":")
    if not name or not colon or name.translate(None, TOKEN):
        raise ValueError("a line that is no field")
    return name, value.strip(b" \t")


def _field_ambiguity(fields: Fields) -> str | None:
    names = [name for name, _ in fields]
    if b"" in names or b"".join(names).translate(None, TOKEN):
        return "a header name that is no token"
    if b"".join([value for _, value in fields]).translate(None, TEXT):
        return "a control character in a header value"
    for name, value in fields:
        if len(name) == _LENGTH and len(value) > MOST_DIGITS and name.lower() == b"content-length":
            return "a Content-Length that some cannot count to"
    return None


def _request_ambiguity(request: http.Request) -> str | None:
    data = request.data
    absolute = None if data.path[:1] in (b"/", b"*") else _ABSOLUTE.fullmatch(data.path)
    if not (data.path[:1] == b"/" or data.path == b"*" or absolute) or data.path.translate(None, VISIBLE):
        return "an invalid target"
    if not data.method or data.method.translate(None, TOKEN):
        return "an invalid method"
    hosts = [value for name, value in data.headers.fields if len(name) == 4 and name.lower() == b"host"]
    if len(hosts) > 1:
        return "two Host headers"
    hosts += filter(None, (data.authority, absolute and absolute[1]))
    if len(hosts) > 1 and len(set(map(_host_key, hosts))) > 1:
        return "two hosts"
    return "an invalid Host header" if b"".join(hosts).translate(None, _HOST) else None


def _host_key(host: bytes) -> bytes:
    return host.lower().removesuffix(b":80").removesuffix(b":443")


def refuse_request(flow: http.HTTPFlow) -> bool:
    """Answer an ambiguous request with 400. Returns whether it is ambiguous; do not process it further then."""
    if not flow.live or (why := ambiguity(flow.request)) is None:
        return False
    peer = flow.client_conn.peername[0] if flow.client_conn.peername else "an unknown address"
    _told.warning(why, "moesif: a request from %s is refused with 400: %s", peer, why)
    if flow.error is None:  # else mitmproxy has already refused it
        flow.request.stream = False
        flow.response = refusal(400, flow.request, "the request can be read in more than one way")
    return True


def refuse_answer(flow: http.HTTPFlow) -> bool:
    """Replace an upstream's ambiguous response with a 502 without a body. Returns whether it is ambiguous."""
    response = flow.response
    if not flow.live or response is None or (why := ambiguity(response)) is None:
        return False
    _told.warning(why, "moesif: an upstream's answer becomes 502: %s", why)
    replace_answer(response, refusal(502))
    return True


def drop_ambiguous_trailers(message: http.Message) -> None:
    """Drop ambiguous trailers. HTTP allows any intermediary to drop trailers."""
    if message.trailers is not None and _field_ambiguity(message.trailers.fields) is not None:
        message.trailers = None
