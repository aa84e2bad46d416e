"""The newest exchanges, in memory: at most a number, and `BYTES_EACH` times as many bytes.

What is noted comes from the threads that build and send; what is asked is read by another. A fault in here costs
nothing but the note.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.recent import records, terms
from mitmproxy_moesif.recent.api import Detail, Listing, State, Stats
from mitmproxy_moesif.recent.asked import Exchanges
from mitmproxy_moesif.recent.notes import NO_EXCHANGES, Keep, Note
from mitmproxy_moesif.recent.records import Record
from mitmproxy_moesif.recent.stats import add_up

BYTES_EACH = 8192
LONGEST_LIFE = 20
"""Steps of an exchange that are told; of more, the first and the last."""

BREATH = 500
"""Rows that are looked at in one go, before other threads get their turn."""


class RecentExchanges(Exchanges):
    """`fault` is told of an error of ours."""

    def __init__(self, keep: Keep = NO_EXCHANGES, fault: Callable[[str, Exception], None] | None = None) -> None:
        self._keep = keep
        self._guard = _Guard(fault)
        self._lock = threading.Lock()
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._changed: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0
        self._seen = 0
        self._clock = 0

    # --- what is noted -------------------------------------------------------------------------------------------

    def built(self, instance: Instance, exchange: Exchange, facts: Attributes, made: bytes | object) -> None:
        """What the `EventBuilder` made of an exchange: an event, or a reason why there is none."""
        if self._keep.number and isinstance(made, bytes):
            with self._guard:
                record = records.built(instance, exchange, facts, made, raw=self._keep.raw)
                self._add(record, (exchange.ended or exchange.started, "captured", ""), (time.time(), "built", ""))

    def dropped(self, instance: Instance, exchange: Exchange, cause: str) -> None:
        """No event was made."""
        if self._keep.number:
            state: State = "not_captured" if cause in NOT_CAPTURED else "dropped"
            with self._guard:
                record = records.unbuilt(instance, exchange)
                self._add(record, (exchange.ended or exchange.started, "captured", ""), (time.time(), state, cause))

    def noted(self, notes: Iterable[Sequence[Any]]) -> None:
        """Exchanges that never came here."""
        if self._keep.number:
            with self._guard:
                for note in map(Note._make, notes):
                    state: State = "dropped" if note.cause in TURNED_AWAY else "not_captured"
                    self._add(Record(note), (time.time(), state, note.cause))

    def moved(self, ids: Iterable[str], state: State, detail: str) -> None:
        """What became of events."""
        if not self._keep.number:
            return
        now = time.time()
        with self._guard, self._lock:
            for transaction_id in ids:
                if (record := self._records.get(transaction_id)) is not None:
                    if len(record.life) >= LONGEST_LIFE:
                        record.life.pop()
                    record.moved(now, state, detail, self._tick())
                    self._changed.move_to_end(transaction_id)

    def _tick(self) -> int:
        """Microseconds of the clock, and more than those before. Only while the lock is held."""
        now = time.time_ns() // 1000
        self._clock = now if now > self._clock else self._clock + 1
        return self._clock

    def _add(self, record: Record, *life: tuple[float, State, str]) -> None:
        record.life += life
        keep, kept, transaction_id = self._keep.number, self._records, record.note.id
        with self._lock:
            record.number = record.changed = self._tick()
            self._seen += 1
            if transaction_id in kept:
                self._forgotten(transaction_id, kept.pop(transaction_id))
            kept[transaction_id] = record
            self._changed[transaction_id] = None
            self._bytes += record.size
            while kept and (len(kept) > keep or self._bytes > keep * BYTES_EACH):
                self._forgotten(*kept.popitem(last=False))

    def _forgotten(self, transaction_id: str, record: Record) -> None:
        del self._changed[transaction_id]
        self._bytes -= record.size

    # --- what is asked -------------------------------------------------------------------------------------------

    def find(self, transaction_id: str) -> Detail | None:
        with self._lock:
            record = self._records.get(transaction_id)
        return record.detail() if record is not None else None

    def newest(
        self, wanted: str = "", limit: int = 100, before: int | None = None, changed_after: int | None = None
    ) -> Listing:
        fits = terms.parse(wanted)
        found: list[Record] = []
        more = False
        with self._lock:
            now = self._tick()  # what changes from here on is told by who asks after it
        for record in self._candidates(changed_after):
            if (before is None or record.number < before) and fits(record.row()):
                if len(found) == limit:
                    more = True
                    break
                found.append(record)
        with self._lock:
            return Listing(
                exchanges=[record.row().copy() for record in found],
                next=found[-1].number if more else None,
                changed=now,
                kept=len(self._records),
                seen=self._seen,
            )

    def stats(self, wanted: str = "") -> Stats:
        fits = terms.parse(wanted)
        return add_up([row for record in self._candidates(None) if fits(row := record.row())])

    def _candidates(self, changed_after: int | None) -> Iterator[Record]:
        """Newest first. The builder's thread gets its turn between."""
        with self._lock:
            if changed_after is None:
                found = list(reversed(self._records.values()))
            else:
                found = []
                for transaction_id in reversed(self._changed):
                    if (record := self._records[transaction_id]).changed <= changed_after:
                        break
                    found.append(record)
        rest = iter(found)
        while some := list(islice(rest, BREATH)):
            yield from some
            time.sleep(0)


class _Guard:
    """Tells of an error, and ends it."""

    def __init__(self, fault: Callable[[str, Exception], None] | None) -> None:
        self._fault = fault

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception) or self._fault is None:
            return False
        self._fault("recent exchanges", error)
        return True


NOT_CAPTURED = frozenset(("sampled_out", "skipped"))
"""Causes for which no event is wanted."""

TURNED_AWAY = frozenset(("queue_full", "queue_bytes"))
"""Causes for which an event was wanted, and there was no room."""
