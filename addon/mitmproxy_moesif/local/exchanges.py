"""The received events as exchanges: the paths that the traffic page requests from a proxy's admin listener.

`GET /exchanges`, `/exchanges/{transaction_id}`, `/exchanges/stream` and `/stats`, so that `moesif-proxy page` can show
events sent by any SDK. An event without a `transaction_id` is named by its number.
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
"""Events read at a time, since each may have a megabyte."""

LAST: Final = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()

LOOPBACK: Final = Gate(Address("127.0.0.1", 0), None)
"""Admits only requests that name a loopback host."""


class ReceivedExchanges(Exchanges):
    """Follows a store, with a row for each event in it. Use from one thread at a time."""

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
        """Newest first. Received events never change."""
        fits = terms.parse(wanted)
        for row in reversed(self._rows.values()):
            if after is not None and row["number"] <= after:
                return
            if (before is None or row["number"] < before) and fits(row):
                yield row

    def _follow(self) -> None:
        """Add rows for new events of the store, and remove those of deleted ones."""
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
    with suppress(ValueError):  # nested too deeply: only a row without content
        event = loads(raw)
    began, ended = _seconds(event, "request") or 0.0, _seconds(event, "response")
    name = member(event, str, "transaction_id") or f"number-{stored.number}"
    name, at = name.encode("utf-8", "replace").decode(), began if ended is None else ended
    known = Known(name, began, ended, "", "", "", None, at, "sent", "received by this collector", event=raw)
    return Record.of(known, stored.number)


def _seconds(event: object, side: str) -> float | None:
    """The time of one side in seconds since 1970, limited to 1970..9999; None if missing or invalid."""
    try:
        at = datetime.fromisoformat(member(event, str, side, "time") or "")
    except ValueError:
        return None
    return min(max(0.0, (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()), LAST)


class _Source:
    """The handlers' source. Queries run in threads of the running event loop, and end with it."""

    def __init__(self, store: EventStore) -> None:
        self._exchanges = ReceivedExchanges(store)
        self._one_at_a_time = threading.Lock()
        self.recent({"limit": 1})  # start reading now: a large file takes seconds

    def recent(self, query: Mapping[str, Any]) -> Future[bytes]:
        loop = asyncio.get_running_loop()
        return asyncio.run_coroutine_threadsafe(asyncio.to_thread(self._answer, query), loop)

    def _answer(self, query: Mapping[str, Any]) -> bytes:
        with self._one_at_a_time:
            return self._exchanges.answer(query)


def exchange_paths(store: EventStore) -> list[tuple[str, type[AdminHandler], dict[str, Any]]]:
    """The paths for an application with the settings `gate=LOOPBACK` and `streams=set()`."""
    parts = {"parts": Parts(cast(AdminSource, _Source(store)))}
    return [
        (r"/exchanges/?", ExchangesHandler, parts),
        (r"/exchanges/stream/?", StreamHandler, parts),
        (r"/exchanges/([^/]+)/?", ExchangeHandler, parts),
        (r"/stats/?", StatsHandler, parts),
    ]
