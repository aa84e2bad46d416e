"""The newest exchanges, in memory: limited in number, and to `BYTES_EACH` times as many bytes.

The threads that build and send add notes; another one answers queries. An error in here only loses the note.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.recent import records, terms
from mitmproxy_moesif.recent.api import Detail, Listing, State, Stats
from mitmproxy_moesif.recent.asked import ANSWER_SECONDS, Exchanges, TooLongError
from mitmproxy_moesif.recent.notes import NO_EXCHANGES, Keep, Note
from mitmproxy_moesif.recent.records import Known, Record
from mitmproxy_moesif.recent.stats import add_up

BYTES_EACH = 8192
LONGEST_LIFE = 20
"""Maximum steps shown of an exchange; of more, the first ones and the last."""

MOVES_EACH = 4
"""Noted steps per exchange; above this, the notes are turned into records."""

BREATH = 500
"""Rows examined before other threads may run."""


class Moved(NamedTuple):
    """A step that some events have reached."""

    ids: tuple[str, ...]
    at: float
    state: State
    detail: str


class RecentExchanges(Exchanges):
    """The newest exchanges. `fault` is called for errors in here.

    New facts are only noted, and the oldest notes are dropped first, since queries are rare. Notes are turned into
    records when a query comes.
    """

    def __init__(self, keep: Keep = NO_EXCHANGES, fault: Callable[[str, Exception], None] | None = None) -> None:
        self._keep = keep
        self._guard = _Guard(fault)
        self._lock = threading.Lock()
        self._notes: deque[Known | Moved] = deque()
        self._came = 0
        self._moves = 0
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._changed: OrderedDict[str, None] = OrderedDict()
        self._bytes = 0
        self._seen = 0
        self._clock = 0

    # --- notes ---------------------------------------------------------------------------------------------------

    def built(self, instance: Instance, exchange: Exchange, facts: Attributes, made: bytes | object) -> None:
        """Note the result of the `EventBuilder`: an event, or a reason why there is none."""
        if self._keep.number and isinstance(made, bytes):
            with self._guard:
                self._add(records.built(instance, exchange, facts, made, raw=self._keep.raw))

    def dropped(self, instance: Instance, exchange: Exchange, cause: str) -> None:
        """Note that no event was made."""
        if self._keep.number:
            state: State = "not_captured" if cause in NOT_CAPTURED else "dropped"
            with self._guard:
                self._add(records.unbuilt(instance, exchange, state, cause))

    def noted(self, notes: Iterable[Sequence[Any]]) -> None:
        """Note exchanges that were not handed over to delivery."""
        if self._keep.number:
            with self._guard:
                for note in map(Note._make, notes):
                    state: State = "dropped" if note.cause in TURNED_AWAY else "not_captured"
                    self._add(records.told(note, state))

    def moved(self, ids: Iterable[str], state: State, detail: str) -> None:
        """Note a step of events."""
        if not self._keep.number:
            return
        with self._guard, self._lock:
            moved = Moved(tuple(ids), time.time(), state, detail)
            self._notes.append(moved)
            self._moves += len(moved.ids)
            if self._moves > MOVES_EACH * self._keep.number:
                self._catch_up()

    def _add(self, known: Known) -> None:
        with self._lock:
            self._notes.append(known)
            self._seen += 1
            self._came += 1
            self._bytes += known.size
            keep = self._keep.number
            while self._came + len(self._records) > keep or self._bytes > keep * BYTES_EACH:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        if self._records:
            self._forgotten(*self._records.popitem(last=False))
            return
        oldest = self._notes.popleft()
        if isinstance(oldest, Known):
            self._came -= 1
            self._bytes -= oldest.size
        else:
            self._moves -= len(oldest.ids)

    def _forgotten(self, transaction_id: str, record: Record) -> None:
        del self._changed[transaction_id]
        self._bytes -= record.known.size

    def _catch_up(self) -> None:
        """Turn notes into records. Call with the lock held."""
        for noted in self._notes:
            if isinstance(noted, Known):
                self._enter(noted)
            else:
                self._move(noted)
        self._notes.clear()
        self._came = self._moves = 0

    def _enter(self, known: Known) -> None:
        if known.id in self._records:
            self._forgotten(known.id, self._records.pop(known.id))
        self._records[known.id] = Record.of(known, self._tick(known.at))
        self._changed[known.id] = None

    def _move(self, moved: Moved) -> None:
        for transaction_id in moved.ids:
            if (record := self._records.get(transaction_id)) is not None:
                if len(record.life) >= LONGEST_LIFE:
                    record.life.pop()
                record.moved(moved.at, moved.state, moved.detail, self._tick(moved.at))
                self._changed.move_to_end(transaction_id)

    def _tick(self, at: float) -> int:
        """The clock's microseconds, increased if needed so that each value is larger. Call with the lock held."""
        now = int(at * 1e6)
        self._clock = now if now > self._clock else self._clock + 1
        return self._clock

    # --- queries -------------------------------------------------------------------------------------------------

    def find(self, transaction_id: str) -> Detail | None:
        with self._lock:
            self._catch_up()
            record = self._records.get(transaction_id)
        return record.detail() if record is not None else None

    def newest(
        self, wanted: str = "", limit: int = 100, before: int | None = None, changed_after: int | None = None
    ) -> Listing:
        fits = terms.parse(wanted)
        found: list[Record] = []
        more = False
        with self._lock:
            self._catch_up()
            now = self._tick(time.time())  # later changes are returned by the next query, with `changed_after`
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
        with self._lock:
            self._catch_up()
        return add_up([row for record in self._candidates(None) if fits(row := record.row())])

    def _candidates(self, changed_after: int | None) -> Iterator[Record]:
        """Newest first, with pauses for the builder's thread. Raises `TooLongError`."""
        until = time.monotonic() + ANSWER_SECONDS
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
            if time.monotonic() > until:
                raise TooLongError


class _Guard:
    """Reports an exception and suppresses it."""

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
"""Causes for which no event was wanted."""

TURNED_AWAY = frozenset(("queue_full", "queue_bytes"))
"""Causes for which an event was wanted, but there was no room."""
