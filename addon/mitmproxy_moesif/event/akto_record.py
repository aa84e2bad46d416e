"""Event to Akto's record: what its ingest service takes as a member of `batchData`, or as one Kafka message.

A record is made from the finished event, so that masks and user hooks hold for it without being applied again. Its
values are strings. Akto's runtime silently forgets a record with an empty, blank or cut JSON request body: the
request's body is then `{}`. Over `MAX_BODY_BYTES` JSON and base64 are left out whole, and other text is cut.
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
"""Of `metadata.kong`, those that become tags."""

type Record = dict[str, str]


def akto_record(event: Mapping[str, Any], exchange: Exchange, account_id: str) -> Record:
    """The record of an event as `build_event` or the hook `mask` leaves it, whatever that has removed.

    `statusCode` is 0 without an answer.
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
    """Path and query of an absolute URI, as they were sent."""
    authority_and_path = uri.partition("://")[2]
    start = next((at for at, character in enumerate(authority_and_path) if character in "/?"), None)
    return authority_and_path[start:] if start is not None else "/"


def _headers(side: Mapping[str, Any]) -> str:
    return dumps({name.lower(): str(value) for name, value in (side.get("headers") or {}).items()}).decode()


def _body(side: Mapping[str, Any]) -> str:
    """JSON as it is in the event; text where the bytes are UTF-8; else base64. Nothing where the event has none.

    What is no base64, though the event says so, a hook has put there: it goes as it is.
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
    except ValueError:  # no base64, or no UTF-8
        return _whole(body)
    return whole if len(raw) <= MAX_BODY_BYTES else raw[:MAX_BODY_BYTES].decode(errors="ignore")


def _whole(body: str) -> str:
    return body if len(body.encode()) <= MAX_BODY_BYTES else ""


def _request_payload(body: str) -> str:
    body = body.strip()
    return NO_REQUEST_BODY if not body or (body.startswith("{") and not body.endswith("}")) else body


def encode_record(record: Record) -> bytes:
    """One message's value, or a member of `batchData`."""
    return dumps(record)
