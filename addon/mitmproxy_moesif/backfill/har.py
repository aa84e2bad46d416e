"""Converts an entry of a HAR file to a flow: files from Chrome, Firefox, Kong, mitmproxy and others that follow the
format.

What a HAR does not contain remains unknown: the client's address if missing, a response if there was none (status 0),
compression (bodies in a HAR are decompressed). The id is a hash of the entry, so it is the same each time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import uuid
from datetime import UTC, datetime
from math import inf, isfinite
from typing import Any
from urllib.parse import urlencode, urlsplit

from mitmproxy import connection, http
from mitmproxy.net.http import status_codes

from mitmproxy_moesif.event.address import valid_ip

SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""Browsers use separate schemes for the handshakes of WebSockets."""

VERSIONS = {"h2": "HTTP/2.0", "http/2": "HTTP/2.0", "h3": "HTTP/3", "http/3": "HTTP/3", "http/1.0": "HTTP/1.0"}


class EntryError(ValueError):
    """An entry is invalid; the text names the field, without its value."""


class AnotherProtocol(Exception):  # noqa: N818 - not an error: browsers also save `data:` and `blob:`
    """An entry is not an HTTP exchange."""


class Node:
    """A JSON value and its path, for precise errors."""

    def __init__(self, value: Any, where: str = "") -> None:
        self.value = value
        self.where = where

    def member(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Node:
        """A member; required if `default` is None. Raises `EntryError`."""
        where = f"{self.where}.{name}".lstrip(".")
        value = self.value.get(name) if isinstance(self.value, dict) else None
        value = default if value is None else value
        if value is None:
            raise EntryError(f"{where} is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise EntryError(f"{where} is of the wrong type")
        return Node(value, where)


def flow_of(entry: object) -> http.HTTPFlow:
    """Convert an entry. Raises `EntryError` or `AnotherProtocol`."""
    node = Node(entry)
    asked, answered = node.member("request", dict), node.member("response", dict, {})
    started = _time(node.member("startedDateTime", str))
    ended = started + max(0.0, _milliseconds(node.member("time", (int, float), 0))) / 1000
    peer = node.member("clientIPAddress", str, "").value
    client = connection.Client(peername=(peer if valid_ip(peer) else "", 0), sockname=("", 0), timestamp_start=started)
    flow = http.HTTPFlow(client, connection.Server(address=None))
    flow.id = _id(entry)
    flow.request = _request(asked, started)
    client.tls = flow.request.scheme == "https"
    status = answered.member("status", int, 0)
    if status.value:
        flow.response = _response(answered, status, started, ended)
    return flow


def _time(node: Node) -> float:
    try:
        found = datetime.fromisoformat(node.value)
    except ValueError:
        raise EntryError(f"{node.where} is not ISO 8601") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _milliseconds(node: Node) -> float:
    try:
        found = float(node.value)
    except OverflowError:
        found = inf
    if not isfinite(found):
        raise EntryError(f"{node.where} is not a number of milliseconds")
    return found


def _id(entry: object) -> str:
    """A UUID derived from the entry's content."""
    content = json.dumps(entry, sort_keys=True).encode()
    return str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=5))


def _request(node: Node, started: float) -> http.Request:
    method, url = node.member("method", str), node.member("url", str)
    headers = _headers(node)
    try:
        parts = urlsplit(_bytes(url).decode())
        scheme = SCHEMES.get(parts.scheme)
        port = parts.port or (443 if scheme == "https" else 80)
    except ValueError:
        raise EntryError(f"{url.where} is not a URL") from None
    if parts.scheme and scheme is None:
        raise AnotherProtocol
    if scheme is None or not parts.hostname:
        raise EntryError(f"{url.where} is not an http or https URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return http.Request(
        parts.hostname,
        port,
        _bytes(method),
        scheme.encode(),
        b"" if "host" in headers else parts.netloc.rpartition("@")[2].encode(),
        target.encode(),
        _version(node),
        headers,
        _sent_body(node),
        None,
        started,
        started,
    )


def _response(node: Node, status: Node, started: float, ended: float) -> http.Response:
    if not 100 <= status.value <= 999:
        raise EntryError(f"{status.where} is not an HTTP status")
    content = node.member("content", dict, {})
    body = _decoded(content) if "text" in content.value else b""
    reason = status_codes.RESPONSES.get(status.value, "").encode()
    return http.Response(_version(node), status.value, reason, _headers(node), body, None, started, ended)


def _headers(node: Node) -> http.Headers:
    """The headers, without HTTP/2's pseudo-headers, and without encodings, which the bodies no longer have."""
    headers = node.member("headers", list, [])
    pairs = [_pair(Node(item, f"{headers.where}[{index}]")) for index, item in enumerate(headers.value)]
    return http.Headers(
        (name, value)
        for name, value in pairs
        if not name.startswith(b":") and name.lower() not in (b"content-encoding", b"transfer-encoding")
    )


def _pair(node: Node) -> tuple[bytes, bytes]:
    """A pair from `{"name": .., "value": ..}`, or Slack's `[name, value]`."""
    if isinstance(node.value, list) and len(node.value) == 2:
        node = Node(dict(zip(("name", "value"), node.value, strict=True)), node.where)
    return _bytes(node.member("name", str)), _bytes(node.member("value", str, ""))


def _bytes(node: Node) -> bytes:
    """The text as UTF-8; a lone surrogate, which JSON can have, becomes a question mark."""
    return str(node.value).encode("utf-8", "replace")


def _sent_body(node: Node) -> bytes:
    posted = node.member("postData", dict, {})
    if posted.value.get("text"):
        return _decoded(posted)
    params = posted.member("params", list, [])
    pairs = [Node(item, f"{params.where}[{index}]") for index, item in enumerate(params.value)]
    return urlencode(
        [(_bytes(one.member("name", str)), _bytes(one.member("value", str, ""))) for one in pairs]
    ).encode()


def _decoded(node: Node) -> bytes:
    text = node.member("text", str, "")
    if node.member("encoding", str, "").value != "base64":
        return str(text.value).encode("utf-8", "replace")
    try:
        return base64.b64decode("".join(text.value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise EntryError(f"{text.where} is not Base64") from None


def _version(node: Node) -> bytes:
    told = node.member("httpVersion", str, "").value.lower()
    return next((name for start, name in VERSIONS.items() if told.startswith(start)), "HTTP/1.1").encode()
