"""The received events as exchanges: what the traffic page asks of a proxy's admin listener, asked of the collector.

`GET /exchanges`, `/exchanges/{transaction_id}`, `/exchanges/stream` and `/stats`, so that `moesif-proxy page` shows
what any SDK has sent. An event without a `transaction_id` goes by its number.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Any, Final, cast

from mitmproxy_moesif.admin.exchanges import ExchangeHandler, ExchangesHandler, StatsHandler, StreamHandler
from mitmproxy_moesif.admin.handling import AdminHandler, Parts
from mitmproxy_moesif.admin.source import AdminSource
from mitmproxy_moesif.local.store import EventStore, StoredEvent
from mitmproxy_moesif.recent import terms
from mitmproxy_moesif.recent.api import Detail, Listing, Row, Stats
from mitmproxy_moesif.recent.asked import Exchanges
from mitmproxy_moesif.recent.masked import loads
from mitmproxy_moesif.recent.records import Known, Record, member
from mitmproxy_moesif.recent.stats import add_up
from mitmproxy_moesif.web.access import Address, Gate

AT_ONCE = 50
"""Events that are read at a time: they may have a megabyte each."""

LAST: Final = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()

LOOPBACK: Final = Gate(Address("127.0.0.1", 0), None)
"""Answers to who names a loopback host."""


class ReceivedExchanges(Exchanges):
    """Follows a store: a row of each event that is kept there. To be asked by one thread at a time."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._rows: dict[str, Row] = {}
        self._last = 0

    def find(self, transaction_id: str) -> Detail | None:
        self._follow()
        row = self._rows.get(transaction_id)
        event = self._store.get(row["number"]) if row is not None else None
        return record_of(event).detail() if event is not None else None

    def newest(
        self, wanted: str = "", limit: int = 100, before: int | None = None, changed_after: int | None = None
    ) -> Listing:
        self._follow()
        found = list(islice(self._fitting(wanted, before, changed_after), limit + 1))
        return Listing(
            exchanges=found[:limit],
            next=found[limit - 1]["number"] if len(found) > limit else None,
            changed=self._last,
            kept=len(self._rows),
            seen=self._last,
        )

    def stats(self, wanted: str = "") -> Stats:
        self._follow()
        return add_up(list(self._fitting(wanted)))

    def _fitting(self, wanted: str, before: int | None = None, after: int | None = None) -> Iterator[Row]:
        """Newest first. What was received does not change any more."""
        fits = terms.parse(wanted)
        for row in reversed(self._rows.values()):
            if after is not None and row["number"] <= after:
                return
            if (before is None or row["number"] < before) and fits(row):
                yield row

    def _follow(self) -> None:
        """Take in what the store has got and lost meanwhile."""
        oldest = self._store.oldest()
        for name, _ in list(takewhile(lambda item: item[1]["number"] < oldest, self._rows.items())):
            del self._rows[name]
        while some := self._store.after(self._last, AT_ONCE):
            for event in some:
                row = record_of(event).row()
                self._rows[row["id"]] = row
            self._last = some[-1].number


def record_of(stored: StoredEvent) -> Record:
    raw, event = stored.raw.encode(), {}
    with suppress(ValueError):  # nested too deep: it has no more than a row
        event = loads(raw)
    began, ended = _seconds(event, "request") or 0.0, _seconds(event, "response")
    name = member(event, str, "transaction_id") or f"number-{stored.number}"
    name, at = name.encode("utf-8", "replace").decode(), began if ended is None else ended
    known = Known(name, began, ended, "", "", "", None, at, "sent", "received by this collector", event=raw)
    return Record.of(known, stored.number)


def _seconds(event: object, side: str) -> float | None:
    """When it was; not before 1970, nor, in another zone, after 9999."""
    try:
        at = datetime.fromisoformat(member(event, str, side, "time") or "")
    except ValueError:
        return None
    return min(max(0.0, (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()), LAST)


class _Source:
    """All that the handlers below ask for. Answers are made in threads of the running event loop, which end with it."""

    def __init__(self, store: EventStore) -> None:
        self._exchanges = ReceivedExchanges(store)
        self._one_at_a_time = threading.Lock()
        self.recent({"limit": 1})  # a large file takes seconds to be read, which nobody shall wait for

    def recent(self, query: Mapping[str, Any]) -> Future[bytes]:
        loop = asyncio.get_running_loop()
        return asyncio.run_coroutine_threadsafe(asyncio.to_thread(self._answer, query), loop)

    def _answer(self, query: Mapping[str, Any]) -> bytes:
        with self._one_at_a_time:
            return self._exchanges.answer(query)


def exchange_paths(store: EventStore) -> list[tuple[str, type[AdminHandler], dict[str, Any]]]:
    """For an application with the settings `gate=LOOPBACK` and `streams=set()`."""
    parts = {"parts": Parts(cast(AdminSource, _Source(store)))}
    return [
        (r"/exchanges/?", ExchangesHandler, parts),
        (r"/exchanges/stream/?", StreamHandler, parts),
        (r"/exchanges/([^/]+)/?", ExchangeHandler, parts),
        (r"/stats/?", StatsHandler, parts),
    ]
