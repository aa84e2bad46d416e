"""The thread that builds: what it stores together, and when."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue

import pytest

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.delivery import builder
from mitmproxy_moesif.delivery.beside import Beside
from mitmproxy_moesif.delivery.builder import Builder, Captured
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.recent.store import RecentExchanges
from tests.delivery.pipelines import event
from tests.delivery.test_server import an_exchange

INSTANCE = Instance.compile(parse_settings({"application_id": "one"}))


class Building:
    """A builder at work: `built` tells each exchange, `stored` how many waited after each time that some were."""

    def __init__(self) -> None:
        self.built: SimpleQueue[str] = SimpleQueue()
        self.stored: SimpleQueue[int] = SimpleQueue()
        ledger = Ledger()
        store = Store(ledger, None, 1 << 20)
        self.builder = Builder(
            store,
            ledger,
            self._make,
            lambda destination: self.stored.put(store.fresh_events(destination)),
            Beside(ledger),
            apart=True,
            recent=RecentExchanges(),
        )

    def _make(self, exchange: Exchange, _instance: Instance, _finished: object) -> bytes:
        self.built.put(exchange.transaction_id)
        return event(exchange.transaction_id)


@contextmanager
def building() -> Iterator[Building]:
    one = Building()
    one.builder.start()
    yield one
    one.builder.stop()
    one.builder.join(time.monotonic() + 10)


def captured(number: int) -> Captured:
    return Captured(number, (INSTANCE, replace(an_exchange(0), transaction_id=str(number))))


def test_what_comes_in_pieces_is_stored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "COMMIT_INTERVAL", 60.0)
    with building() as one:
        for number in (1, 2, 3):
            one.builder.put(captured(number))
            one.built.get(timeout=10)
        with pytest.raises(queue.Empty):
            one.stored.get_nowait()
        one.builder.flush(10)
        assert one.stored.get_nowait() == 3


def test_what_was_built_is_stored_in_time_though_nothing_else_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "COMMIT_INTERVAL", 0.01)
    with building() as one:
        one.builder.put(captured(1), captured(2))
        assert one.stored.get(timeout=10) == 2


def test_the_end_does_not_wait_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "COMMIT_INTERVAL", 60.0)
    with building() as one:
        one.builder.put(captured(1))
    assert one.stored.get_nowait() == 1
