"""Exchanges as the delivery process keeps them."""

from __future__ import annotations

import json
from typing import Any

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import EventBuilder
from mitmproxy_moesif.recent.api import Detail
from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.recent.store import RecentExchanges
from tests.support import APPLICATION_ID

SECRET = "hunter2-5ecre7"
TEN = Keep(10)


def raising(_kind: str, error: Exception) -> None:
    raise error


def build(recent: RecentExchanges, exchange: Exchange, **settings: Any) -> None:
    """An event of the exchange, which is kept."""
    instance = Instance.compile(parse_settings({"application_id": APPLICATION_ID, **settings}))
    EventBuilder(lambda *_: 1, raising, recent.built)(exchange, instance)


def kept(exchange: Exchange, keep: Keep = TEN, **settings: Any) -> Detail:
    recent = RecentExchanges(keep, raising)
    build(recent, exchange, **settings)
    return told(recent, exchange.transaction_id)


def told(recent: RecentExchanges, transaction_id: str) -> Detail:
    """As it goes out."""
    detail: Detail = json.loads(recent.answer({"id": transaction_id}))
    return detail
