"""What waits for one destination, in memory and on disk; knows no lock and no ledger.

The law that no error may break: each of the destination's rows on disk is held by a chunk in memory, or lies within a
checkpoint, or both, and then the checkpoint passes it over. So a row is never forgotten and never sent twice, in
whatever order rows were written, moved and given back; a checkpoint may be widened or set back at any time.
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
    """A chunk that waits. `spool` is None while it is in memory only; `arrived` is monotonic seconds."""

    chunk: Chunk
    spool: SpoolFile | None
    arrived: float

    @property
    def row(self) -> tuple[SpoolFile, int] | None:
        """The spool and the key of its row on disk."""
        return None if self.spool is None or self.chunk.key is None else (self.spool, self.chunk.key)

    @property
    def place(self) -> str | None:
        """The name of the spool, for the ledger."""
        return None if self.spool is None else self.spool.path.name

    @property
    def count(self) -> int:
        return len(self.chunk.events)


@dataclass(slots=True, eq=False)
class Checkpoint:
    """The rows of one spool that are still to be read: after `after`, up to `upto`. `paused`: they cannot be, now."""

    spool: SpoolFile
    after: int
    upto: int
    paused: bool = False

    def rows(self, limit: int) -> list[ChunkInfo]:
        """The next rows, at most `limit` (-1: all), also other destinations'; none once it is read to its end."""
        return [row for row in self.spool.index(self.after, limit) if row.key <= self.upto]


@dataclass(slots=True, eq=False)
class EventQueue:
    """One destination's. `checkpoints` in the order in which they are read, one for each spool.

    `events` is how many wait in all, `since` the wall-clock time of the first of them, or of those sent meanwhile.
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
        """So many came, or with a minus went."""
        self.events += events
        self.since = min(self.since, created) if self.events else math.inf

    def hold(self, waiting: Waiting) -> None:
        """To be called for each chunk in memory that has a row: fresh, in the backlog, or in a sender's hand."""
        if waiting.row is not None:
            self.held.add(waiting.row)

    def release(self, waiting: Waiting) -> None:
        """Its row is removed, or covered by a checkpoint."""
        if waiting.row is not None:
            self.held.discard(waiting.row)

    def forget(self, waiting: Waiting) -> None:
        """Of what is on disk, the copy in memory. What is in memory only is backlog from now on."""
        if waiting.row is None:
            self.backlog.append(waiting)
        else:
            spool, key = waiting.row
            self.cover(spool, key, key)
            self.release(waiting)

    def cover(self, spool: SpoolFile, first: int, last: int) -> None:
        """Have the rows from key `first` to `last` read."""
        checkpoint = self.checkpoints.setdefault(spool, Checkpoint(spool, first - 1, last))
        checkpoint.after, checkpoint.upto = min(checkpoint.after, first - 1), max(checkpoint.upto, last)

    def resume(self) -> bool:
        """Have paused checkpoints tried again; whether there are any."""
        paused = [checkpoint for checkpoint in self.checkpoints.values() if checkpoint.paused]
        for checkpoint in paused:
            checkpoint.paused = False
        return bool(paused)

    def has_backlog(self) -> bool:
        """Such as can be sent now."""
        return bool(self.backlog) or not all(checkpoint.paused for checkpoint in self.checkpoints.values())

    def fresh_due(self, batch_size: int, age: float, now: float) -> float | None:
        """Seconds until a batch of the fresh is full, or its first chunk older than `age`; None where there is none."""
        if not self.fresh:
            return None
        return 0.0 if self.fresh_events >= batch_size else max(0.0, self.fresh[0].arrived + age - now)

    def oldest_age(self, now: float, wall: float) -> float:
        """Seconds that the oldest event has been waiting, by both clocks; 0 with none waiting."""
        first = [queue[0] for queue in (self.backlog, self.fresh) if queue]
        ages = [0.0, *(now - waiting.arrived for waiting in (*self.leased, *first))]
        for checkpoint in self.checkpoints.values():
            with suppress(SpoolError):  # a file that is just being closed, or a disk that cannot be read now
                ages += [wall - row.created for row in checkpoint.rows(1)]
        return max(ages)

    def events_in(self, spool: SpoolFile) -> int:
        """How many events wait that are stored there."""
        events = sum(one.count for one in (*self.leased, *self.backlog, *self.fresh) if one.spool is spool)
        if (checkpoint := self.checkpoints.get(spool)) is not None:
            with suppress(SpoolError):
                events += sum(row.count for row in checkpoint.rows(-1) if self.is_to_be_read(spool, row))
        return events

    def is_to_be_read(self, spool: SpoolFile, row: ChunkInfo) -> bool:
        return row.destination == self.destination and (spool, row.key) not in self.held

    def demote(self) -> None:
        """Make what is fresh backlog."""
        for waiting in self.fresh:
            self.forget(waiting)
        self.fresh.clear()
        self.fresh_events = self.fresh_bytes = 0

    def take(self, queue: deque[Waiting], max_events: int, max_bytes: int) -> list[Waiting]:
        """Into a sender's hand."""
        taken = list(_take(queue, max_events, max_bytes))
        self.leased.update(taken)
        return taken


def _take(queue: deque[Waiting], max_events: int, max_bytes: int) -> Iterator[Waiting]:
    """Whole chunks from the front of a queue, within both limits; the first one in any case."""
    events = size = 0
    while queue:
        events += queue[0].count
        size += queue[0].chunk.size
        if (events > max_events or size > max_bytes) and queue[0].count != events:
            return
        yield queue.popleft()
