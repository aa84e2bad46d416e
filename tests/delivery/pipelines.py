"""A pipeline that really sends, in this process: its events are what a test names, and no more than an id."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.delivery.api import Condition
from mitmproxy_moesif.delivery.builder import Captured
from mitmproxy_moesif.delivery.ledger import NOTHING, Reading
from mitmproxy_moesif.delivery.pipeline import Pipeline
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.event.exchange import Exchange
from tests.delivery.test_server import an_exchange
from tests.support.collector import ScriptedCollector

MIB = 1 << 20


def an_instance(collector: ScriptedCollector, application_id: str = "one", **parameters: Any) -> Instance:
    given = {"application_id": application_id, "api_endpoint": collector.url, "flush_interval": 10, **parameters}
    return Instance.compile(parse_settings(given))


def event(transaction_id: str) -> bytes:
    return orjson.dumps(
        {"transaction_id": transaction_id, "request": {"time": "2026-01-01T00:00:00.000", "uri": "/", "verb": "GET"}}
    )


def make(exchange: Exchange, _instance: Instance, _finished: object = None) -> bytes:
    return event(exchange.transaction_id)


def chunk_for(destination: str, ids: Iterable[str]) -> Chunk:
    ids = tuple(ids)
    return Chunk(destination, time.time(), ids, tuple(map(event, ids)))


@dataclass
class Sending:
    """`condition` is how things are once all that could be sent was, `end` its reading."""

    pipeline: Pipeline
    end: Reading = NOTHING
    condition: Condition = field(default_factory=lambda: Condition(NOTHING, {}, None, None))
    _number: Iterator[int] = field(default_factory=lambda: count(1))

    def put(self, instance: Instance, *ids: str) -> None:
        for one in ids:
            exchange = replace(an_exchange(0), transaction_id=one, started=time.time())
            self.pipeline.put(Captured(next(self._number), (instance, exchange)))


@contextmanager
def sending(folder: Path | None, *instances: Instance) -> Iterator[Sending]:
    pipeline = Pipeline(folder, 64 * MIB, make, lambda *_: None, apart=False)
    pipeline.start()
    pipeline.configure(instances)
    try:
        proxy = Sending(pipeline)
        yield proxy
        pipeline.drain(5)
        proxy.condition = pipeline.condition()
        proxy.end = reading = proxy.condition.reading
        assert reading.captured == reading.delivered + reading.waiting + sum(reading.dropped.values())
    finally:
        pipeline.close()
