"""Converts an event to Akto's record: a member of `batchData` for its ingest service, or one Kafka message.

A record is made from the finished event, so that masks and user hooks apply to it without being run again. Its values
are strings. Akto's runtime silently drops a record with an empty, blank or truncated JSON request body, so `{}` is sent
instead. Above `MAX_BODY_BYTES`, JSON and base64 are omitted, and other text is truncated.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from mitmproxy_moesif.config.akto import MAX_BODY_BYTES
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.grpc import is_grpc
from mitmproxy_moesif.event.size import dumps

NO_REQUEST_BODY: Final = "{}"
NAMES: Final = ("service_name", "route_name")
"""Members of `metadata.kong` that become tags."""

type Record = dict[str, str]


def akto_record(event: Mapping[str, Any], exchange: Exchange, account_id: str) -> Record:
    """The record of an event as returned by `build_event` or the hook `mask`; any member may be missing.

    `statusCode` is 0 without a response.
    """
    request, response, metadata = (event.get(name) or {} for name in ("request", "response", "metadata"))
    status = int(response.get("status") or 0)
    known = metadata.get("kong") or {}
    return {
        "path": _path(request.get("uri") or ""),
        "method": request.get("verb") or "",
        "requestHeaders": _headers(request),
        "responseHeaders": _headers(response),
        "requestPayload": _request_payload(_body(request)),
        "responsePayload": _body(response),
        "ip": request.get("ip_address") or "",
        "time": str(int(exchange.started)),
        "statusCode": str(status),
        "status": HTTPStatus(status).phrase if status in HTTPStatus else "",
        "type": "HTTP/2" if exchange.http_version.startswith("HTTP/2") else exchange.http_version,
        "akto_account_id": account_id,
        "akto_vxlan_id": "0",
        "is_pending": "false",
        "source": "MIRRORING",
        "direction": "",
        "tag": dumps({"service": "kong", **{name: str(known[name]) for name in NAMES if name in known}}).decode(),
    }


def _path(uri: str) -> str:
    """Path and query of an absolute URI, as sent."""
    authority_and_path = uri.partition("://")[2]
    start = next((at for at, character in enumerate(authority_and_path) if character in "/?"), None)
    return authority_and_path[start:] if start is not None else "/"


def _headers(side: Mapping[str, Any]) -> str:
    return dumps({name.lower(): str(value) for name, value in (side.get("headers") or {}).items()}).decode()


def _body(side: Mapping[str, Any]) -> str:
    """JSON as in the event; text if the bytes are UTF-8; else base64. Empty if the event has no body.

    If the event says base64 but the value is not, a hook has put it there, and it is sent unchanged.
    """
    body = side.get("body")
    if body is None:
        return ""
    if side.get("transfer_encoding") == "json" or not isinstance(body, str):
        return _whole(dumps(body).decode())
    if is_grpc(side.get("headers") or {}):
        return _whole(body)
    try:
        raw = b64decode(body, validate=True)
        whole = raw.decode()
    except ValueError:  # not base64, or not UTF-8
        return _whole(body)
    return whole if len(raw) <= MAX_BODY_BYTES else raw[:MAX_BODY_BYTES].decode(errors="ignore")


def _whole(body: str) -> str:
    return body if len(body.encode()) <= MAX_BODY_BYTES else ""


def _request_payload(body: str) -> str:
    body = body.strip()
    return NO_REQUEST_BODY if not body or (body.startswith("{") and not body.endswith("}")) else body


def encode_record(record: Record) -> bytes:
    """The value of a Kafka message, or a member of `batchData`."""
    return dumps(record)
