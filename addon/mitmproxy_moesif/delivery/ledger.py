"""Where every captured event is: delivered, waiting or dropped under a named cause.

captured = delivered + waiting + dropped holds at every reading, since each move is one step under one lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent look at the ledger; numbers of events. `recovered` are those of `captured` found on disk.

    `spools`: how many of them wait in each file, by name; `adopted`: when this process took over a file of another, in
    monotonic seconds. `settled`: every exchange up to the one of this number is stored, delivered or dropped.
    """

    captured: int
    recovered: int
    delivered: int
    waiting_in_memory: int
    waiting_on_disk: int
    dropped: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    settled: int = 0
    spools: dict[str, int] = field(default_factory=dict)
    adopted: dict[str, float] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        return self.waiting_in_memory + self.waiting_on_disk

    @property
    def dropped_total(self) -> int:
        return sum(self.dropped.values())

    def line(self) -> str:
        """`captured N, delivered N, waiting N, dropped N (cause N, ...)`."""
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.dropped.items()))
        line = f"captured {self.captured}, delivered {self.delivered}, waiting {self.waiting}, "
        return line + f"dropped {self.dropped_total}" + (f" ({causes})" if causes else "")


type Place = str | None
"""Where an event is stored: the name of a spool file, None for in memory alone."""


@dataclass(slots=True)
class Settlement:
    """What became of exchanges that were taken one after the other; `number` is the last one's."""

    number: int = 0
    stored: Counter[Place] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def events(self) -> int:
        return self.stored.total() + self.dropped.total()


class Ledger:
    """Counts by place and cause. `changed` is set whenever a count changed; who waits for it clears it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.changed = threading.Event()
        self._entered = 0
        self._left_queue = 0
        self._settled = 0
        self._stored: Counter[Place] = Counter()
        self._adopted: dict[str, float] = {}
        self._recovered = 0
        self._delivered = 0
        self._dropped: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def enter(self, count: int) -> None:
        """Exchanges came, and wait to be built."""
        with self._lock:
            self._entered += count

    def settle(self, settlement: Settlement) -> None:
        """From the queue into the store, or to nowhere: in one step, so that none counts before those ahead of it."""
        with self._lock:
            self._left_queue += settlement.events
            self._stored.update(settlement.stored)
            self._dropped += settlement.dropped
            self._settled = settlement.number
            self._tell()

    def move(self, count: int, place: Place, to: Place) -> None:
        with self._lock:
            self._stored[place] -= count
            self._stored[to] += count
            self._tell()

    def deliver(self, count: int, place: Place) -> None:
        """From the store to the receiver."""
        with self._lock:
            self._stored[place] -= count
            self._delivered += count
            self._tell()

    def drop(self, count: int, cause: str, place: Place) -> None:
        """From the store to nowhere."""
        with self._lock:
            self._stored[place] -= count
            self._dropped[cause] += count
            self._tell()

    def recover(self, count: int, found: str, place: str) -> None:
        """Found in a file that a process left which ended; they are in `place` now, mostly the same file."""
        with self._lock:
            self._recovered += count
            self._stored[place] += count
            self._adopted[found] = time.monotonic()
            self._tell()

    def lose(self, count: int, cause: str) -> None:
        """Found on disk and not readable."""
        with self._lock:
            self._recovered += count
            self._dropped[cause] += count
            self._tell()

    def abandon(self, cause: str) -> None:
        """The process ends: what waits in memory alone ends with it."""
        with self._lock:
            self._dropped += Counter({cause: self._entered - self._left_queue + self._stored.pop(None, 0)})
            self._left_queue = self._entered
            self._tell()

    def fault(self, kind: str) -> None:
        """Something of ours went wrong; the traffic did not notice."""
        with self._lock:
            self._faults[kind] += 1
            self._tell()

    def read(self) -> Reading:
        with self._lock:
            spools = {place: count for place, count in self._stored.items() if place is not None and count}
            return Reading(
                captured=self._entered + self._recovered,
                recovered=self._recovered,
                delivered=self._delivered,
                waiting_in_memory=self._entered - self._left_queue + self._stored[None],
                waiting_on_disk=sum(spools.values()),
                dropped=dict(self._dropped),
                faults=dict(self._faults),
                settled=self._settled,
                spools=spools,
                adopted=dict(self._adopted),
            )

    def _tell(self) -> None:
        if not self.changed.is_set():
            self.changed.set()


@dataclass(frozen=True, slots=True)
class FormerProcesses:
    """What delivery processes that died had done. `left` was on disk then, by file, for the successor to find."""

    settled: int = 0
    recovered: int = 0
    delivered: int = 0
    left: Counter[str] = field(default_factory=Counter)
    adopted: dict[str, float] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def handed_over(self, successor: Reading, *, has_looked: bool) -> FormerProcesses:
        """Without what the successor took over and counts itself; what it did not find at all is not ours any more."""
        found = self.left if has_looked else successor.adopted
        left = Counter({name: count for name, count in self.left.items() if name not in found})
        return replace(self, recovered=self.recovered - self.left.total() + left.total(), left=left)

    def and_then(self, last: Reading) -> FormerProcesses:
        """With one that died after this report. What was stored in its memory alone is lost."""
        settled = max(self.settled, last.settled)
        unsettled = last.captured - last.recovered - (settled - self.settled)  # these go to its successor
        lost = Counter({"helper_died": last.waiting_in_memory - unsettled})
        return FormerProcesses(
            settled,
            self.recovered + last.recovered,
            self.delivered + last.delivered,
            self.left + Counter(last.spools),
            self.adopted | last.adopted,
            self.dropped + Counter(last.dropped) + lost,
            self.faults + Counter(last.faults),
        )
