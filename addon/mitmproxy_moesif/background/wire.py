"""Exchanges, settings and conditions as plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import SecretStr

from mitmproxy_moesif.delivery.interface import Condition, SpoolCondition
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.sender import Health
from mitmproxy_moesif.event.exchange import NO_BODY, Exchange, Payload
from mitmproxy_moesif.settings import Settings, parse_settings

type Plain = tuple[Any, ...]


def from_exchange(exchange: Exchange) -> Plain:
    request, response = exchange.request_body, exchange.response_body
    return (
        exchange.transaction_id,
        exchange.scheme,
        exchange.authority,
        exchange.method,
        exchange.target,
        exchange.http_version,
        exchange.peer,
        exchange.started,
        exchange.request_headers,
        None if request is NO_BODY else (request.chunks, request.omitted),
        exchange.ended,
        exchange.status,
        exchange.response_headers,
        None if response is NO_BODY else (response.chunks, response.omitted),
        exchange.blocked_by,
        exchange.kong,
        exchange.metadata,
        exchange.size,
    )


def to_exchange(plain: Plain) -> Exchange:
    exchange = Exchange(*plain)
    request, response = plain[9], plain[13]
    exchange.request_body = NO_BODY if request is None else Payload(*request)
    exchange.response_body = NO_BODY if response is None else Payload(*response)
    return exchange


def from_settings(settings: Settings) -> dict[str, Any]:
    """The parameters that were given, secrets in clear: it is for the process that sends them, and nothing else."""
    values = {name: settings.__dict__[name] for name in settings.model_fields_set}
    return {name: _revealed(value) for name, value in values.items()}


def _revealed(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def to_settings(plain: Mapping[str, Any]) -> Settings:
    return parse_settings(plain)


def from_condition(condition: Condition) -> dict[str, Any]:
    return asdict(condition)


def to_condition(plain: Mapping[str, Any]) -> Condition:
    spool = plain["spool"]
    health = {name: Health(**values) for name, values in plain["health"].items()}
    return Condition(
        reading=Reading(**plain["reading"]),
        health=health,
        oldest_at=plain["oldest_at"],
        spool=SpoolCondition(**spool) if spool is not None else None,
        memory_bytes=plain["memory_bytes"],
        adopted=plain["adopted"],
    )
