"""Exchange to event: the JSON object that Moesif gets, masked before anything else sees it.

The shape is that of Moesif's collector API: `request`, `response` (absent where there was none), `transaction_id`,
`user_id`, `company_id`, `direction`, `weight`, `trace_id`, `span`, `metadata`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from mitmproxy_moesif.event import kong
from mitmproxy_moesif.event.address import client_address, is_trusted
from mitmproxy_moesif.event.body import Rendered, render
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.event.headers import flatten, text
from mitmproxy_moesif.event.identity import identify
from mitmproxy_moesif.event.masking import mask_query
from mitmproxy_moesif.event.policy import EventPolicy, SidePolicy
from mitmproxy_moesif.event.trace import parse_traceparent

MAX_EVENT_BYTES = 1_000_000
"""Moesif refuses larger events; ours leave their bodies out instead."""


def build_event(exchange: Exchange, policy: EventPolicy) -> dict[str, Any]:
    """The event of one exchange. Its bodies may be `orjson.Fragment`s, so it is for `encode` alone."""
    request_headers = flatten(exchange.request_headers)
    response_headers = flatten(exchange.response_headers)
    trusted = policy.trusts_all or is_trusted(exchange.peer, policy.trusted)
    where = kong.position(policy.position, request_headers, response_headers, trusted=trusted)
    caller = identify(
        policy.identity,
        request_headers,
        response_headers,
        kong.believed_consumers(where, request_headers, response_headers, trusted=trusted),
    )
    metadata = dict(exchange.metadata)
    if where is not kong.Position.DIRECT and (known := kong.kong_metadata(request_headers, response_headers)):
        metadata["kong"] = known
    request_body = _body(exchange.request_body, request_headers, policy.request, metadata, "request")
    event: dict[str, Any] = {
        "request": {
            "time": iso_time(exchange.started),
            "uri": _uri(exchange, request_headers, policy, rebuild=where is kong.Position.BEHIND and trusted),
            "verb": exchange.method,
            "headers": _masked_headers(request_headers, policy.request, policy.query_masks),
            "api_version": policy.api_version,
            "ip_address": client_address(
                request_headers,
                exchange.peer,
                trusted=trusted,
                real_ip_first=where is kong.Position.BEHIND and not policy.trusts_all,
            ),
            **request_body,
        },
        "transaction_id": exchange.transaction_id,
        "direction": "Incoming",
        "weight": 1,
    }
    if exchange.status is not None:
        response_body = _body(exchange.response_body, response_headers, policy.response, metadata, "response")
        event["response"] = {
            "time": iso_time(exchange.started if exchange.ended is None else exchange.ended),
            "status": exchange.status,
            "headers": _masked_headers(response_headers, policy.response, policy.query_masks),
            **response_body,
        }
    if caller.user_id is not None:
        event["user_id"] = caller.user_id
    if caller.company_id is not None:
        event["company_id"] = caller.company_id
    if trace := parse_traceparent(request_headers.get("traceparent", "")):
        event["trace_id"], parent = trace
        event["span"] = {"id": _span_id(exchange.transaction_id), "parent_span_id": parent}
    if metadata:
        event["metadata"] = metadata
    return event


def encode(event: dict[str, Any]) -> bytes:
    """One line of JSON, at most `MAX_EVENT_BYTES` where leaving out the bodies suffices."""
    encoded = orjson.dumps(event)
    if len(encoded) <= MAX_EVENT_BYTES:
        return encoded
    omitted = event.setdefault("metadata", {}).setdefault("body_omitted", {})
    for side in ("response", "request"):
        if side in event and event[side].pop("body", None) is not None:
            event[side].pop("transfer_encoding", None)
            omitted[side] = "too_large"
            encoded = orjson.dumps(event)
            if len(encoded) <= MAX_EVENT_BYTES:
                break
    return encoded


def iso_time(seconds: float) -> str:
    """UTC with milliseconds, always three digits: `2026-11-22T09:05:07.042`."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}"


def _uri(exchange: Exchange, headers: Mapping[str, str], policy: EventPolicy, *, rebuild: bool) -> str:
    target = text(exchange.target)
    if rebuild:
        uri = kong.public_uri(headers, exchange.scheme, exchange.authority, target)
    else:
        uri = kong.absolute_uri(exchange.scheme, exchange.authority, target)
    return mask_query(uri, policy.query_masks)


def _masked_headers(headers: dict[str, str], side: SidePolicy, query_masks: frozenset[str]) -> dict[str, str]:
    if side.header_masks:
        headers = {name: value for name, value in headers.items() if name not in side.header_masks}
    if query_masks and "referer" in headers:
        headers["referer"] = mask_query(headers["referer"], query_masks)
    return headers


def _body(
    payload: Payload, headers: Mapping[str, str], side: SidePolicy, metadata: dict[str, Any], name: str
) -> dict[str, object]:
    """`body` and `transfer_encoding`, or nothing; why it was left out goes to `metadata.body_omitted`."""
    if not side.body.capture:
        return {}
    rendered = Rendered(None, None, payload.omitted)
    if payload.omitted is None:
        rendered = render(
            payload.content(), headers.get("content-type", ""), headers.get("content-encoding", ""), side.body
        )
    if rendered.omitted is not None:
        metadata.setdefault("body_omitted", {})[name] = rendered.omitted
    if rendered.transfer_encoding is None:
        return {}
    return {"body": rendered.value, "transfer_encoding": rendered.transfer_encoding}


def _span_id(transaction_id: str) -> str:
    """This exchange's own span; the proxy starts none, so it is derived and the same on every resend."""
    return transaction_id.replace("-", "")[:16].lower()
