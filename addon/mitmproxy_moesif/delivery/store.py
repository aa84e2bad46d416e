"""What waits to be sent: on disk where there is a spool, in bounded memory where there is none or it is in trouble.

For each destination there are two lanes. *Fresh* holds what came in since the receiver last answered, still in memory
(and on disk); *backlog* is everything older, read back from disk page by page, so that a day without a receiver costs
no memory. A failed send turns what is fresh into backlog; after it, both lanes are served in turn, so that a long
backlog never starves what happens now.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mitmproxy_moesif.delivery.chunk import Chunk
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.delivery.spool import (
    ChunkInfo,
    Spool,
    SpoolDamaged,
    SpoolError,
    SpoolFull,
    SpoolVanished,
)
from mitmproxy_moesif.delivery.spool_folder import SpoolFolder
from mitmproxy_moesif.log import log

FRESH_MAX_BYTES = 8_000_000
PAGE = 64
ALL_KEYS = 2**62


@dataclass(slots=True, eq=False)
class Waiting:
    """A chunk that waits. `spool` is None while it is in memory only; `arrived` is monotonic seconds."""

    chunk: Chunk
    spool: Spool | None
    arrived: float

    @property
    def count(self) -> int:
        return len(self.chunk.events)


@dataclass(slots=True, eq=False)
class Cursor:
    """The backlog of one destination in one spool: the rows after `after` up to `upto`."""

    spool: Spool
    destination: str
    upto: int
    after: int = 0

    def rows(self, limit: int) -> list[ChunkInfo]:
        """The next rows, at most `limit`, also those of other destinations; none once it is read to its end."""
        return [row for row in self.spool.index(self.after, limit) if row.key <= self.upto]


@dataclass(slots=True, eq=False)
class Lanes:
    """What waits for one destination."""

    destination: str
    fresh: deque[Waiting] = field(default_factory=deque)
    backlog: deque[Waiting] = field(default_factory=deque)
    cursors: list[Cursor] = field(default_factory=list)
    fresh_events: int = 0
    fresh_bytes: int = 0


class Store:
    """Chunks of all destinations. The builder's thread puts and maintains, the senders' threads take and settle."""

    def __init__(
        self, ledger: Ledger, folder: Path | None, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self.max_bytes = max_bytes  # may be changed at any time
        self._left_behind = SpoolFolder(folder, max_bytes) if folder is not None else None
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[str, Lanes] = {}
        self._spool: Spool | None = None
        self._others: list[Spool] = []
        self._lost = False
        self._vanished: set[Spool] = set()
        self.trouble: str | None = None  # what is wrong with the disk, in one line
        self._full = False
        self.memory_bytes = 0

    # --- the builder's and the keeper's side -------------------------------------------------------------------

    def open(self) -> None:
        """Open this process's spool."""
        if self._folder is not None:
            self._create(self._folder)

    def adopt(self) -> list[str]:
        """Take over the files of processes that ended; returns the destinations of what they hold. Cheap mostly."""
        found: set[str] = set()
        if self._left_behind is not None:
            for spool in self._left_behind.adopt():
                found |= self._adopt(spool)
        return sorted(found)

    def _adopt(self, spool: Spool) -> set[str]:
        events, destinations = 0, set()
        for info in spool.index():
            events += info.count
            destinations.add(info.destination)
        if spool.unreadable_events:
            self._ledger.lose(spool.unreadable_events, "spool_damaged")
        self._ledger.recover(events)
        with self._lock:
            self._others.append(spool)
            for destination in destinations:
                self._lane(destination).cursors.append(Cursor(spool, destination, ALL_KEYS))
        if events:
            log.info("moesif: found %d events that an earlier process left in the spool", events)
        return destinations

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Store chunks that are in the caller's hand; on disk when it returns, wherever that works."""
        spool = self._spool
        if spool is not None:
            try:
                spool.append(chunks)
            except SpoolFull:
                self._put_what_fits(spool, chunks)
                return
            except SpoolError as error:
                self._in_trouble(error)
                spool = None
            else:
                self._full = False
                self._works_again()
        for chunk in chunks:
            self._take_in(chunk, spool)

    def _put_what_fits(self, spool: Spool, chunks: Sequence[Chunk]) -> None:
        """No room for all of them: the newest, those that do not fit, are dropped."""
        for chunk in chunks:
            try:
                spool.append([chunk])
            except SpoolError:
                self._ledger.drop_from_hand(len(chunk.events), "spool_full")
                if not self._full:
                    self._full = True
                    log.warning(
                        "moesif: the spool is full (moesif_spool_max_bytes); new events are dropped and counted"
                    )
            else:
                self._take_in(chunk, spool)

    def _take_in(self, chunk: Chunk, spool: Spool | None) -> None:
        self._ledger.store(len(chunk.events), on_disk=spool is not None)
        with self._lock:
            lanes = self._lane(chunk.destination)
            lanes.fresh.append(Waiting(chunk, spool, self._clock()))
            lanes.fresh_events += len(chunk.events)
            lanes.fresh_bytes += chunk.size
            if spool is None:
                self.memory_bytes += chunk.size
            elif lanes.fresh_bytes > FRESH_MAX_BYTES:
                self._retreat(lanes)

    def maintain(self) -> None:
        """Now and then: return to disk what had to stay in memory, and give disk space back."""
        if self._folder is None:
            return
        if self._spool is None or self._lost:
            self._create(self._folder)
        if self._spool is not None and not self._lost:
            self._move_to_disk(self._spool)
        with self._lock:
            drained = [spool for spool in self._others if not spool.stored_chunks]
            self._others = [spool for spool in self._others if spool.stored_chunks]
            for lanes in self._lanes.values():
                lanes.cursors = [cursor for cursor in lanes.cursors if cursor.spool not in drained]
        for spool in drained:
            spool.close()
        self._share_room()

    def _share_room(self) -> None:
        """What other processes left counts against the bound; a quarter of it is always for what is new."""
        try:
            for spool in self._others:
                spool.shrink()
            if self._spool is not None:
                taken = sum(spool.disk_bytes for spool in self._others)
                self._spool.max_bytes = max(self.max_bytes - taken, self.max_bytes // 4)
                self._spool.shrink()
        except SpoolError as error:
            self._in_trouble(error)

    def _create(self, folder: Path) -> None:
        """Open a new file; the one that was lost stays open for as long as it holds something."""
        try:
            spool = Spool.create(folder, self.max_bytes)
        except SpoolError as error:
            self._in_trouble(error)
            return
        with self._lock:
            if self._spool is not None:
                self._others.append(self._spool)
            self._spool, self._lost = spool, False
        self._works_again()

    def _move_to_disk(self, spool: Spool) -> None:
        """Into this file: what is in memory alone, and what is in a file that is gone from its folder."""
        with self._lock:
            try:
                for lanes in self._lanes.values():
                    self._move_cursors(lanes, spool)
                    for waiting in (*lanes.backlog, *lanes.fresh):
                        self._move(waiting, spool)
            except SpoolFull:
                return
            except SpoolError as error:
                self._in_trouble(error)
                return
            self._vanished.clear()
        self._works_again()

    def _move(self, waiting: Waiting, spool: Spool) -> None:
        old, old_key = waiting.spool, waiting.chunk.key
        if old is not None and old not in self._vanished:
            return
        spool.append([waiting.chunk])
        waiting.spool = spool
        if old is None:
            self.memory_bytes -= waiting.chunk.size
            self._ledger.move(waiting.count, to_disk=True)
        elif old_key is not None:
            old.remove([old_key])

    def _move_cursors(self, lanes: Lanes, spool: Spool) -> None:
        for cursor in [cursor for cursor in lanes.cursors if cursor.spool in self._vanished]:
            lanes.cursors.remove(cursor)
            moved: list[Chunk] = []
            while rows := cursor.rows(PAGE):
                for row in rows:
                    cursor.after = row.key
                    if row.destination == lanes.destination and (chunk := self._load(cursor.spool, row)) is not None:
                        spool.append([chunk])
                        cursor.spool.remove([row.key])
                        moved.append(chunk)
            if moved:
                first, last = moved[0].key, moved[-1].key
                assert first is not None
                assert last is not None
                lanes.cursors.insert(0, Cursor(spool, lanes.destination, last, first - 1))

    def _in_trouble(self, error: SpoolError) -> None:
        if isinstance(error, SpoolVanished | SpoolDamaged) and self._spool is not None:
            self._lost = True
            if isinstance(error, SpoolVanished):
                self._vanished.add(self._spool)
        if self.trouble is None:
            log.error("moesif: %s; events stay in memory until the disk works again", error)
        self.trouble = str(error)

    def _works_again(self) -> None:
        if self.trouble is not None:
            self.trouble = None
            log.info("moesif: the spool works again; events go to disk")

    def close(self) -> None:
        """Close the files; what is in them is for the next process."""
        with self._lock:
            spools = [*self._others, *([self._spool] if self._spool is not None else [])]
            self._others, self._spool, self._folder = [], None, None
        for spool in spools:
            spool.close()

    # --- the senders' side ---------------------------------------------------------------------------------------

    def destinations(self) -> list[str]:
        with self._lock:
            return list(self._lanes)

    def due(self, destination: str, batch_size: int, age: float) -> float | None:
        """Seconds until something is to be sent: 0 with a full batch, a backlog, or an event older than `age`."""
        with self._lock:
            lanes = self._lane(destination)
            if lanes.backlog or lanes.cursors or lanes.fresh_events >= batch_size:
                return 0.0
            return max(0.0, lanes.fresh[0].arrived + age - self._clock()) if lanes.fresh else None

    def fresh_events(self, destination: str) -> int:
        """A hint, read without the lock."""
        lanes = self._lanes.get(destination)
        return lanes.fresh_events if lanes is not None else 0

    def fresh_due(self, destination: str, batch_size: int, age: float) -> bool:
        with self._lock:
            lanes = self._lane(destination)
            if not lanes.fresh:
                return False
            return lanes.fresh_events >= batch_size or lanes.fresh[0].arrived + age <= self._clock()

    def take_fresh(self, destination: str, max_events: int, max_bytes: int) -> list[Waiting]:
        """Whole chunks, oldest first, at least one where there is one. They belong to the caller until settled."""
        with self._lock:
            lanes = self._lane(destination)
            taken = list(_take(lanes.fresh, max_events, max_bytes))
            for waiting in taken:
                lanes.fresh_events -= waiting.count
                lanes.fresh_bytes -= waiting.chunk.size
            return taken

    def take_backlog(self, destination: str, max_events: int, max_bytes: int) -> list[Waiting]:
        with self._lock:
            lanes = self._lane(destination)
            if len(lanes.backlog) < PAGE // 2:
                self._refill(lanes)
            return list(_take(lanes.backlog, max_events, max_bytes))

    def retreat(self, destination: str) -> None:
        """The receiver is in trouble: what is fresh becomes backlog."""
        with self._lock:
            self._retreat(self._lane(destination))

    def give_back(self, destination: str, batch: Sequence[Waiting]) -> None:
        """Put back what was taken and not settled, ahead of everything else."""
        with self._lock:
            self._lane(destination).backlog.extendleft(reversed(batch))

    def settle(self, batch: Iterable[Waiting]) -> None:
        """These chunks need not be kept any longer: all their events are delivered or dropped, and counted so."""
        keys: dict[Spool, list[int]] = {}
        with self._lock:
            for waiting in batch:
                if waiting.spool is None:
                    self.memory_bytes -= waiting.chunk.size
                elif waiting.chunk.key is not None:
                    keys.setdefault(waiting.spool, []).append(waiting.chunk.key)
        for spool, rows in keys.items():
            try:
                spool.remove(rows)
            except SpoolError as error:
                # They would be sent once more after a restart; Moesif removes duplicates by transaction id.
                self._in_trouble(error)

    def shrink_chunk(self, waiting: Waiting, rest: Chunk) -> None:
        """Some of a chunk's events are settled. Its row stays whole until all are: then it goes as one."""
        with self._lock:
            if waiting.spool is None:
                self.memory_bytes -= waiting.chunk.size - rest.size
            waiting.chunk = rest

    @property
    def has_folder(self) -> bool:
        return self._folder is not None

    def disk_bytes(self) -> int:
        """Bytes on disk, of this process's spool and of those it took over."""
        with self._lock:
            spools = [*self._others, *([self._spool] if self._spool is not None else [])]
        return sum(spool.disk_bytes for spool in spools)

    def oldest_age(self) -> float:
        """Seconds that the oldest event has been waiting; 0 with none waiting."""
        with self._lock:
            now, wall = self._clock(), time.time()
            ages = [0.0]
            for lanes in self._lanes.values():
                ages += [now - queue[0].arrived for queue in (lanes.backlog, lanes.fresh) if queue]
                with suppress(SpoolError):  # a file that is just being closed, or a disk that cannot be read now
                    ages += [wall - row.created for cursor in lanes.cursors for row in cursor.rows(1)]
            return max(ages)

    # --- under the lock ------------------------------------------------------------------------------------------

    def _lane(self, destination: str) -> Lanes:
        return self._lanes.setdefault(destination, Lanes(destination))

    def _retreat(self, lanes: Lanes) -> None:
        for waiting in lanes.fresh:
            if waiting.spool is None:
                lanes.backlog.append(waiting)
            else:
                self._leave_on_disk(lanes, waiting)
        lanes.fresh.clear()
        lanes.fresh_events = lanes.fresh_bytes = 0

    def _leave_on_disk(self, lanes: Lanes, waiting: Waiting) -> None:
        """Forget the copy in memory: the row is found again by its key."""
        assert waiting.spool is not None
        assert waiting.chunk.key is not None
        cursor = next((c for c in lanes.cursors if c.spool is waiting.spool), None)
        if cursor is None:
            lanes.cursors.append(Cursor(waiting.spool, lanes.destination, waiting.chunk.key, waiting.chunk.key - 1))
        else:
            cursor.upto = waiting.chunk.key

    def _refill(self, lanes: Lanes) -> None:
        while lanes.cursors and len(lanes.backlog) < PAGE:
            cursor = lanes.cursors[0]
            rows = cursor.rows(PAGE)
            if not rows:
                lanes.cursors.pop(0)
            for row in rows:
                cursor.after = row.key
                if row.destination == lanes.destination and (chunk := self._load(cursor.spool, row)) is not None:
                    age = max(0.0, time.time() - chunk.created)
                    lanes.backlog.append(Waiting(chunk, cursor.spool, self._clock() - age))

    def _load(self, spool: Spool, row: ChunkInfo) -> Chunk | None:
        try:
            return spool.load(row.key)
        except (KeyError, SpoolDamaged):
            self._ledger.drop(row.count, "spool_damaged", on_disk=True)
            spool.remove([row.key])
            log.error("moesif: %d events in the spool cannot be read; they are dropped, and counted", row.count)
            return None


def _take(queue: deque[Waiting], max_events: int, max_bytes: int) -> Iterator[Waiting]:
    events = size = 0
    while queue:
        events += queue[0].count
        size += queue[0].chunk.size
        waiting = queue[0]
        if events > max_events or size > max_bytes:
            if waiting.count == events:
                yield queue.popleft()
            return
        yield queue.popleft()
