"""Exchanges for tests: what a case does not name has a plain default."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mitmproxy_moesif.config.policy import compile_policy
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.attributes import read_attributes
from mitmproxy_moesif.event.build import build_event
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.event.size import encode

Pairs = Iterable[tuple[str, str]]


def an_exchange(
    request_headers: Pairs = (),
    response_headers: Pairs = (),
    *,
    request_body: bytes = b"",
    response_body: bytes = b"",
    **fields: Any,
) -> Exchange:
    given: dict[str, Any] = {
        "transaction_id": "7d3b6e0a-4c1f-4a7e-9f59-0123456789ab",
        "scheme": "http",
        "authority": "api.example.com",
        "method": "GET",
        "target": b"/orders/7",
        "http_version": "HTTP/1.1",
        "peer": "127.0.0.1",
        "started": 1_700_000_000.042,
        "ended": 1_700_000_000.1,
        "status": 200,
    }
    return Exchange(
        **(given | fields),
        request_headers=_fields(request_headers),
        response_headers=_fields(response_headers),
        request_body=Payload([request_body]) if request_body else Payload(()),
        response_body=Payload([response_body]) if response_body else Payload(()),
    )


def event_of(exchange: Exchange, **parameters: Any) -> dict[str, Any]:
    """The event as Moesif reads it."""
    policy = compile_policy(parse_settings(parameters))
    facts = read_attributes(exchange.request_headers, exchange.response_headers, exchange.peer, policy)
    event: dict[str, Any] = json.loads(encode(build_event(exchange, facts, policy)))
    return event


def _fields(pairs: Pairs) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in pairs)
