"""The event of a flow that has ended, built here by the code that builds what is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mitmproxy import http

from mitmproxy_moesif.capture import flow as exchanges
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import EventBuilder, NotSent
from mitmproxy_moesif.governance.sampler import Sampler
from mitmproxy_moesif.governance.sampling import weight
from mitmproxy_moesif.lifecycle import Lifecycle
from mitmproxy_moesif.recent import records
from mitmproxy_moesif.recent.api import Removed
from mitmproxy_moesif.recent.masked import loads
from mitmproxy_moesif.recent.records import Record


class NoEventError(ValueError):
    """Why a flow has no event."""


def captured(life: Lifecycle, flow: http.HTTPFlow) -> tuple[Instance, Exchange]:
    """As it was captured, or would be. Raises `NoEventError`."""
    prepared = life.prepared
    if prepared is None or life.instance is None or life.runtime is None:
        raise NoEventError("nothing is captured: capture is off, or has not begun")
    instance, kong = life.instance, {}
    if prepared.resolver is not None:
        placed = prepared.resolver.resolve(exchanges.routable(flow), instance)
        if placed.instance is None:
            raise NoEventError("no instance of Kong's configuration applies to it")
        instance, kong = placed.instance, placed.kong
    seen = flow.copy()
    seen.id, seen.live = flow.id, False
    entry = exchanges.open_exchange(seen, instance)
    entry.kong, entry.blocked_by = dict(kong), flow.metadata.get(exchanges.BLOCKED_BY)
    return instance, exchanges.snapshot(entry, exchanges.end_of(entry, failed=flow.error is not None))


def record_of(life: Lifecycle, flow: http.HTTPFlow) -> Record:
    """What is told of it, with its event. Raises `NoEventError`."""
    instance, exchange = captured(life, flow)
    found: list[Record] = []

    def observe(instance: Instance, exchange: Exchange, facts: Attributes, made: bytes | NotSent) -> None:
        if isinstance(made, bytes):
            record = Record(records.built(instance, exchange, facts, made, raw=False))
            record.moved(exchange.ended or exchange.started, "captured", "", 0)
            found.append(record)

    assert life.runtime is not None
    sampler = Sampler(life.runtime.refresher.snapshot)
    made = EventBuilder(lambda *asked: weight(sampler.rate(*asked)), lambda *_: None, observe)(exchange, instance)
    if isinstance(made, NotSent):
        raise NoEventError(f"it has no event: {made.value}")
    return found[0]


def shown(record: Record) -> str:
    """The event as it is sent, indented, with a mark in place of each member that a mask removed."""
    assert record.known.event is not None
    event = loads(record.known.event)
    for removed in record.detail()["removed"]:
        put_mark(event, removed)
    return json.dumps(event, indent=2, ensure_ascii=False)


def put_mark(event: dict[str, Any], removed: Removed) -> None:
    """Where a member is gone; of text that was changed inside the event shows what is left."""
    *path, last = _steps(event, removed["where"].split("."))
    place: Any = event
    for step in path:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if isinstance(place, dict) and last not in place:
        place[last] = f"‹removed by {removed['by']}›"


def _steps(event: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The path as far as it is there, and one step more: a name may hold a dot."""
    steps: list[str] = []
    place: Any = event
    for index, name in enumerate(names):
        if isinstance(place, dict) and name in place:
            place = place[name]
        elif isinstance(place, list) and name.isdecimal() and int(name) < len(place):
            place = place[int(name)]
        else:
            return [*steps, ".".join(names[index:])]
        steps.append(name)
    return steps
