"""Builds the event of an exchange: the JSON object for Moesif, masked before any other code sees it.

Its format is that of Moesif's collector API: `request`, `response` (absent if there was none), `transaction_id`,
`user_id`, `company_id`, `direction`, `weight`, `trace_id`, `span`, `metadata`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mitmproxy_moesif.config.policy import EventPolicy, SidePolicy, hyphened
from mitmproxy_moesif.event import kong_headers
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.bodies import Rendered, render
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.event.grpc import is_grpc, outcome
from mitmproxy_moesif.event.headers import flatten, text
from mitmproxy_moesif.event.masking import mask_method, mask_query, mask_urls
from mitmproxy_moesif.event.trace import parse_traceparent


def build_event(exchange: Exchange, facts: Attributes, policy: EventPolicy, weight: int = 1) -> dict[str, Any]:
    """The event of one exchange. Its bodies may be `orjson.Fragment`s, so only `encode` can serialize it."""
    metadata, known = _masked_texts(exchange.metadata, policy), exchange.kong
    if facts.position is not kong_headers.Position.DIRECT:
        said = kong_headers.kong_metadata(facts.position, facts.request_headers, facts.response_headers)
        known = known | _masked_texts(said, policy)
    if known:
        metadata["kong"] = known
    event: dict[str, Any] = {
        "request": _request(exchange, facts, policy, metadata),
        "transaction_id": exchange.transaction_id,
        "direction": "Incoming",
        "weight": weight,
    }
    if exchange.status is not None:
        event["response"] = _response(exchange, exchange.status, facts, policy, metadata)
    if facts.caller.user_id is not None:
        event["user_id"] = facts.caller.user_id
    if facts.caller.company_id is not None:
        event["company_id"] = facts.caller.company_id
    if exchange.blocked_by is not None:
        event["blocked_by"] = exchange.blocked_by
    if trace := parse_traceparent(facts.request_headers.get("traceparent", "")):
        event["trace_id"], parent = trace
        # The proxy creates no span, so this exchange's own is derived from its id, and is the same on every resend.
        event["span"] = {"id": exchange.transaction_id.replace("-", "")[:16].lower(), "parent_span_id": parent}
    if metadata:
        event["metadata"] = metadata
    return event


def _masked_texts(said: Mapping[str, object], policy: EventPolicy) -> dict[str, object]:
    """A copy with its texts, which come from headers, masked like headers."""
    if not policy.query_masks:
        return dict(said)
    texts = {name: value for name, value in said.items() if isinstance(value, str)}
    return {**said, **mask_urls(texts, policy.query_masks)}


def _request(exchange: Exchange, facts: Attributes, policy: EventPolicy, metadata: dict[str, Any]) -> dict[str, Any]:
    headers = facts.request_headers
    return {
        "time": iso_time(exchange.started),
        "uri": _uri(exchange, facts, policy),
        "verb": mask_method(exchange.method, policy.query_masks),
        "headers": masked_headers(headers, policy.request, policy.query_masks),
        "api_version": policy.api_version,
        **({"ip_address": facts.address} if facts.address else {}),
        **_body(exchange.request_body, headers, policy.request, metadata, "request"),
    }


def _response(
    exchange: Exchange, status: int, facts: Attributes, policy: EventPolicy, metadata: dict[str, Any]
) -> dict[str, Any]:
    headers = facts.response_headers
    shown = masked_headers(headers, policy.response, policy.query_masks)
    trailers = masked_headers(flatten(exchange.response_trailers), policy.response, policy.query_masks)
    if trailers:
        metadata["trailers"] = trailers
    if is_grpc(headers):
        metadata["grpc"] = outcome(shown, trailers)
    return {
        "time": iso_time(exchange.started if exchange.ended is None else exchange.ended),
        "status": status,
        "headers": shown,
        **_body(exchange.response_body, headers, policy.response, metadata, "response"),
    }


def iso_time(seconds: float) -> str:
    """UTC with milliseconds, always three digits: `2026-11-22T09:05:07.042`."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_iso_second(whole)}.{milliseconds:03d}"


@lru_cache(maxsize=16)
def _iso_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _uri(exchange: Exchange, facts: Attributes, policy: EventPolicy) -> str:
    parts = exchange.scheme, exchange.authority, text(exchange.target)
    if facts.position is kong_headers.Position.BEHIND and facts.trusted:
        parts = kong_headers.public_parts(facts.request_headers, *parts)
    return mask_query(kong_headers.absolute_uri(*parts), policy.query_masks)


def masked_headers(headers: Mapping[str, str], side: SidePolicy, query_masks: frozenset[str]) -> Mapping[str, str]:
    if side.header_masks:
        headers = {name: value for name, value in headers.items() if hyphened(name) not in side.header_masks}
    return mask_urls(headers, query_masks)


def _body(
    payload: Payload, headers: Mapping[str, str], side: SidePolicy, metadata: dict[str, Any], name: str
) -> dict[str, object]:
    """`body` and `transfer_encoding`, or nothing; the reason for an omission goes to `metadata.body_omitted`."""
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
