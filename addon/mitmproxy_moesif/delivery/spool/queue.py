"""The events waiting for one destination, in memory and on disk; without locks and ledger, which are the caller's.

The invariant, also after errors: each of the destination's rows on disk is held by a chunk in memory, or lies within a
checkpoint, or both; in the last case the checkpoint skips it. So no row is forgotten or sent twice, in whatever order
rows were written, moved and returned; a checkpoint may be widened or set back at any time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.file import ChunkInfo, SpoolError, SpoolFile

ALL_KEYS = 2**62


@dataclass(slots=True, eq=False)
class Waiting:
    """A waiting chunk. `spool` is None while it is only in memory; `arrived` is in monotonic seconds."""

    chunk: Chunk
    spool: SpoolFile | None
    arrived: float

    @property
    def row(self) -> tuple[SpoolFile, int] | None:
        """The spool and key of its row on disk; None if it has none."""
        return None if self.spool is None or self.chunk.key is None else (self.spool, self.chunk.key)

    @property
    def place(self) -> str | None:
        """The name of the spool, for the ledger; None for memory only."""
        return None if self.spool is None else self.spool.path.name

    @property
    def count(self) -> int:
        return len(self.chunk.events)


@dataclass(slots=True, eq=False)
class Checkpoint:
    """The rows of one spool still to be read: keys after `after`, up to `upto`. `paused`: not readable at present."""

    spool: SpoolFile
    after: int
    upto: int
    paused: bool = False

    def rows(self, limit: int) -> list[ChunkInfo]:
        """The next rows, at most `limit` (-1: all), of all destinations; none once the end is reached."""
        return [row for row in self.spool.index(self.after, limit) if row.key <= self.upto]


@dataclass(slots=True, eq=False)
class EventQueue:
    """The queue of one destination. `checkpoints` are in reading order, one for each spool.

    `events` is the total number waiting; `since` is the wall-clock time of the oldest event since the queue was empty.
    """

    destination: str
    fresh: deque[Waiting] = field(default_factory=deque)
    backlog: deque[Waiting] = field(default_factory=deque)
    checkpoints: dict[SpoolFile, Checkpoint] = field(default_factory=dict)
    leased: set[Waiting] = field(default_factory=set)
    held: set[tuple[SpoolFile, int]] = field(default_factory=set)
    fresh_events: int = 0
    fresh_bytes: int = 0
    events: int = 0
    since: float = math.inf

    def count(self, events: int, created: float = math.inf) -> None:
        """Add to the number of waiting events; a negative number subtracts."""
        self.events += events
        self.since = min(self.since, created) if self.events else math.inf

    def hold(self, waiting: Waiting) -> None:
        """Call this for each chunk in memory that has a row: fresh, in the backlog, or leased by a sender."""
        if waiting.row is not None:
            self.held.add(waiting.row)

    def release(self, waiting: Waiting) -> None:
        """Call this once the chunk's row is removed, or covered by a checkpoint."""
        if waiting.row is not None:
            self.held.discard(waiting.row)

    def forget(self, waiting: Waiting) -> None:
        """Forget the copy in memory of a chunk on disk; put a chunk that is only in memory into the backlog."""
        if waiting.row is None:
            self.backlog.append(waiting)
        else:
            spool, key = waiting.row
            self.cover(spool, key, key)
            self.release(waiting)

    def cover(self, spool: SpoolFile, first: int, last: int) -> None:
        """Extend the spool's checkpoint by the rows from key `first` to `last`."""
        checkpoint = self.checkpoints.setdefault(spool, Checkpoint(spool, first - 1, last))
        checkpoint.after, checkpoint.upto = min(checkpoint.after, first - 1), max(checkpoint.upto, last)

    def resume(self) -> bool:
        """Resume paused checkpoints; returns whether there were any."""
        paused = [checkpoint for checkpoint in self.checkpoints.values() if checkpoint.paused]
        for checkpoint in paused:
            checkpoint.paused = False
        return bool(paused)

    def has_backlog(self) -> bool:
        """Whether there is a backlog that can be sent now."""
        return bool(self.backlog) or not all(checkpoint.paused for checkpoint in self.checkpoints.values())

    def fresh_due(self, batch_size: int, age: float, now: float) -> float | None:
        """Seconds until the fresh chunks are due (0 with a full batch, else by `age`); None if there are none."""
        if not self.fresh:
            return None
        return 0.0 if self.fresh_events >= batch_size else max(0.0, self.fresh[0].arrived + age - now)

    def oldest_age(self, now: float, wall: float) -> float:
        """Seconds that the oldest event has been waiting, by both clocks; 0 if none waits."""
        first = [queue[0] for queue in (self.backlog, self.fresh) if queue]
        ages = [0.0, *(now - waiting.arrived for waiting in (*self.leased, *first))]
        for checkpoint in self.checkpoints.values():
            with suppress(SpoolError):  # the file is just being closed, or the disk cannot be read now
                ages += [wall - row.created for row in checkpoint.rows(1)]
        return max(ages)

    def events_in(self, spool: SpoolFile) -> int:
        """How many waiting events are stored in this spool."""
        events = sum(one.count for one in (*self.leased, *self.backlog, *self.fresh) if one.spool is spool)
        if (checkpoint := self.checkpoints.get(spool)) is not None:
            with suppress(SpoolError):
                events += sum(row.count for row in checkpoint.rows(-1) if self.is_to_be_read(spool, row))
        return events

    def is_to_be_read(self, spool: SpoolFile, row: ChunkInfo) -> bool:
        return row.destination == self.destination and (spool, row.key) not in self.held

    def demote(self) -> None:
        """Turn fresh chunks into backlog."""
        for waiting in self.fresh:
            self.forget(waiting)
        self.fresh.clear()
        self.fresh_events = self.fresh_bytes = 0

    def take(self, queue: deque[Waiting], max_events: int, max_bytes: int) -> list[Waiting]:
        """Lease chunks to a sender, within both limits."""
        taken = list(_take(queue, max_events, max_bytes))
        self.leased.update(taken)
        return taken


def _take(queue: deque[Waiting], max_events: int, max_bytes: int) -> Iterator[Waiting]:
    """Whole chunks from the front of a queue, within both limits; always at least the first one."""
    events = size = 0
    while queue:
        events += queue[0].count
        size += queue[0].chunk.size
        if (events > max_events or size > max_bytes) and queue[0].count != events:
            return
        yield queue.popleft()
