"""How an exchange failed: the cause in one word, and the status that the client saw."""

from __future__ import annotations

from mitmproxy import flow as mitm_flow
from mitmproxy import http

from mitmproxy_moesif.capture.in_flight import PendingExchange

_STARTED = ("unexpected server response", "Cannot parse HTTP response", "HTTP/2 protocol error")
"""mitmproxy's error messages about an upstream that had already sent something."""


def failure(flow: http.HTTPFlow, *, refused: bool = False) -> str | None:
    """Why an exchange failed, in one word. mitmproxy's own message is not used, because it may quote headers.

    `refused`: mitmproxy rejected the request before any hook ran.
    """
    error = flow.error
    if error is None:
        return None
    if error.msg == mitm_flow.Error.KILLED_MESSAGE:
        return "killed"
    if refused or error.msg.startswith("Request body exceeds"):
        return "request_refused"
    if error.msg.startswith("Response body exceeds"):
        return "response_refused"
    if not flow.client_conn.connected or _left_by_client(flow, error.msg):
        return "client_disconnected"
    return "upstream_failed"


def failed_before_answer(flow: http.HTTPFlow) -> bool:
    """Whether the upstream could not be reached, or closed the connection before its first byte."""
    unanswered = flow.response is None and flow.error is not None and not flow.error.msg.startswith(_STARTED)
    return unanswered and failure(flow) == "upstream_failed"


def is_complete(flow: http.HTTPFlow) -> bool:
    return flow.response is not None and flow.response.timestamp_end is not None


def _left_by_client(flow: http.HTTPFlow, message: str) -> bool:
    """Whether the client reset the stream. mitmproxy says `stream reset by client` for either side.

    Only the side that speaks HTTP/2 can reset a stream; if both do, CANCEL means the client.
    """
    if message.startswith("stream reset by client"):
        return flow.request.is_http2 and (flow.server_conn.alpn != b"h2" or "CANCEL" in message)
    return message.startswith("Client disconnected")


def status_seen(entry: PendingExchange, cause: str | None, *, failed: bool) -> int | None:
    """The status that the client saw; None if no response was sent."""
    flow, response = entry.flow, entry.flow.response
    if entry.unanswered:
        return None
    if cause is None or not entry.live:
        return response.status_code if response is not None else None
    if cause == "killed" and failed:
        return None  # hooks kill a flow before its response head is sent
    if cause == "response_refused":
        return 502
    if response is not None and (response.stream or flow.websocket is not None):
        return response.status_code  # the head was sent before the failure
    if cause == "request_refused":
        return 400 if entry.refused else 413
    reset = flow.error is not None and "CANCEL" in flow.error.msg
    return 502 if cause == "upstream_failed" and not reset else None
