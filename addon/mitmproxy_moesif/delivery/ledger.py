"""Where every captured event is: delivered, waiting or dropped under a named cause.

captured = delivered + waiting + dropped holds at every reading, since each move is one step under one lock. The event
loop's thread never takes that lock: what it counts itself (what enters the queue, and what is turned away at its door)
are numbers that only it writes.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent look at the ledger; numbers of events. `recovered` are those of `captured` found on disk.

    `settled`: how many of those that entered, counted from the first, are stored, or dropped before they were.
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


class Ledger:
    """Counts by place and cause.

    `entered`, `turned_away` and `skipped` are the event loop's to write and nobody else's; the methods are for any
    other thread. `changed` is set whenever one of them changed a count; who waits for it clears it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entered = 0
        self.turned_away: Counter[str] = Counter()
        self.skipped = 0
        self.changed = threading.Event()
        self._taken = 0
        self._in_hand = 0
        self._settled = 0
        self._memory = 0
        self._disk = 0
        self._recovered = 0
        self._delivered = 0
        self._dropped: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    def in_memory(self) -> int:
        """Events waiting in memory, for the door's limit; may lag behind by what is being moved just now."""
        return self.entered - self._taken + self._in_hand + self._memory

    def take(self, count: int) -> None:
        """From the door's queue into a hand."""
        with self._lock:
            self._taken += count
            self._in_hand += count

    def store(self, count: int, *, on_disk: bool) -> None:
        """From a hand into the store."""
        with self._lock:
            self._leave_hand(count)
            self._add(count, on_disk)

    def drop_from_hand(self, count: int, cause: str) -> None:
        with self._lock:
            self._leave_hand(count)
            self._dropped[cause] += count

    def move(self, count: int, *, to_disk: bool) -> None:
        with self._lock:
            self._add(-count, not to_disk)
            self._add(count, to_disk)
            self._tell()

    def deliver(self, count: int, *, on_disk: bool) -> None:
        """From the store to the receiver."""
        with self._lock:
            self._add(-count, on_disk)
            self._delivered += count
            self._tell()

    def drop(self, count: int, cause: str, *, on_disk: bool) -> None:
        """From the store to nowhere."""
        with self._lock:
            self._add(-count, on_disk)
            self._dropped[cause] += count
            self._tell()

    def recover(self, count: int) -> None:
        """Found on disk, left by a process that ended."""
        with self._lock:
            self._recovered += count
            self._disk += count
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
            self._dropped[cause] += self.entered - self._taken + self._in_hand + self._memory
            self._taken, self._in_hand, self._memory = self.entered, 0, 0
            if not self._dropped[cause]:
                del self._dropped[cause]
            self._tell()

    def fault(self, kind: str) -> None:
        """Something of ours went wrong; the traffic did not notice."""
        with self._lock:
            self._faults[kind] += 1
            self._tell()

    def read(self) -> Reading:
        with self._lock:
            turned_away = Counter(self.turned_away)
            entered = self.entered
            return Reading(
                captured=entered + turned_away.total() + self._recovered,
                recovered=self._recovered,
                delivered=self._delivered,
                waiting_in_memory=entered - self._taken + self._in_hand + self._memory,
                waiting_on_disk=self._disk,
                dropped=dict(self._dropped + turned_away),
                faults=dict(self._faults),
                skipped=self.skipped,
                settled=self._settled,
            )

    def _leave_hand(self, count: int) -> None:
        self._in_hand -= count
        if not self._in_hand:
            self._settled = self._taken
        self._tell()

    def _tell(self) -> None:
        if not self.changed.is_set():
            self.changed.set()

    def _add(self, count: int, on_disk: bool) -> None:
        if on_disk:
            self._disk += count
        else:
            self._memory += count


@dataclass(frozen=True, slots=True)
class FormerProcesses:
    """What helpers that died had done. `left` events were on disk then, for the successor to find."""

    settled: int = 0
    recovered: int = 0
    delivered: int = 0
    left: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def and_then(self, last: Reading) -> FormerProcesses:
        """With a helper that died after this report. What was stored in its memory alone is lost."""
        entered = last.captured - last.recovered
        in_memory = max(0, last.waiting_in_memory - (entered - last.settled))
        done = last.delivered + last.dropped_total + in_memory
        lost = Counter({"helper_died": in_memory}) if in_memory else Counter[str]()
        return FormerProcesses(
            self.settled + last.settled,
            self.recovered + last.recovered,
            self.delivered + last.delivered,
            self.left + last.settled + last.recovered - done,
            self.dropped + Counter(last.dropped) + lost,
            self.faults + Counter(last.faults),
        )
