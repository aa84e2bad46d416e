"""A store with a disk that fails on demand, what puts into it, and what delivers from it, all in one thread."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from mitmproxy_moesif.delivery.batch import Batch
from mitmproxy_moesif.delivery.ledger import NOTHING, Ledger, Reading, Settlement
from mitmproxy_moesif.delivery.spool import format as spool_format
from mitmproxy_moesif.delivery.spool.directory import RETRY_SECONDS
from mitmproxy_moesif.delivery.spool.store import Store
from tests.delivery.spool.spools import MIB, a_chunk, dead_spool

Answer = Literal["accepted", "refused", "half", "half refused", "unavailable"]
ONE, TWO = "1" * 16, "2" * 16
ROUNDS = 10
"""Of the keeper: more than it takes until all is well again."""


@dataclass
class Disk:
    """Every statement that SQLite is given is counted; those numbered within `bad` fail. Errors as of a full disk."""

    statements: int = 0
    bad: range = field(default_factory=lambda: range(0))
    code: int = sqlite3.SQLITE_FULL

    def use(self) -> None:
        self.statements += 1
        if self.statements - 1 in self.bad:
            error = sqlite3.OperationalError("the disk of the test")
            error.sqlite_errorcode = self.code
            raise error

    @contextmanager
    def well(self) -> Iterator[None]:
        """For what another process does."""
        before = self.statements, self.bad
        self.bad = range(0)
        yield
        self.statements, self.bad = before

    def install(self, patch: pytest.MonkeyPatch) -> None:
        connect = spool_format.connect
        patch.setattr(spool_format, "connect", lambda path: Connection(connect(path), self))


class Connection:
    """An SQLite connection whose statements pass the disk. What ends a transaction that failed passes always."""

    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        if sql != "ROLLBACK":
            self._disk.use()
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        self._disk.use()
        return self._connection.executemany(sql, parameters)


class World:
    """One process's store. Its clock goes when all is delivered: a file that could not be taken over is tried again."""

    def __init__(self, folder: Path, disk: Disk | None = None, *, max_bytes: int = 128 * MIB) -> None:
        self.folder = folder
        self.disk = disk or Disk()
        self.now = 0.0
        self.ledger = Ledger()
        self.store = Store(self.ledger, folder, max_bytes, clock=lambda: self.now)
        self.number = 0
        self.put_ids: list[str] = []
        self.delivered: Counter[str] = Counter()
        self.leased: list[tuple[str, Batch]] = []
        self.store.open()

    # -- What the threads do

    def put(self, *destinations: str, events: int = 2, size: int = 100) -> None:
        chunks = [a_chunk(events, size, destination) for destination in destinations or (ONE,)]
        for chunk in chunks:
            self.put_ids += chunk.transaction_ids
            self.number += events
        self.store.put(chunks, Settlement(self.number))
        self.check()

    def inherit(self, *destinations: str) -> None:
        """A process ends beside this one, and leaves a file."""
        chunks = [a_chunk(2, 100, destination) for destination in destinations]
        self.put_ids += [one for chunk in chunks for one in chunk.transaction_ids]
        with self.disk.well():
            dead_spool(self.folder, chunks)

    def keep(self) -> None:
        self.store.adopt()
        self.store.maintain()
        self.check()

    def take(self, destination: str = ONE, *, fresh: bool = False, most: int = 4) -> bool:
        """Into the hand; False where there is nothing."""
        take = self.store.take_fresh if fresh else self.store.take_backlog
        taken = take(destination, most, MIB)
        if taken:
            self.leased.append((destination, Batch(taken)))
        return bool(taken)

    def settle(self, answer: Answer = "accepted") -> None:
        """As the sender does it, once the receiver has answered to what was taken first; nothing without that."""
        if not self.leased:
            return
        destination, batch = self.leased.pop(0)
        count = len(batch.events(0, sum(part.waiting.count for part in batch.parts)))
        reached = {"unavailable": 0, "half": count // 2, "half refused": count // 2}.get(answer, count)
        if answer in ("refused", "half refused"):
            batch.mark_dropped(0, reached, "refused")
        else:
            for position in range(reached):
                self.delivered[batch.id_at(position)] += 1
            batch.mark_delivered(0, reached)
        if reached < count:
            self.store.demote(destination)
        self.store.settle(destination, batch.parts)
        self.check()

    def remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def told_by_files(self) -> Reading:
        """What the files would tell of this process if it were killed now."""
        spools = self.store.spools
        assert spools.current is not None
        found = {spool.path.name: sum(row.count for row in spool.index()) for spool in spools.all}
        return NOTHING.last("killed", spools.current.account(), found)

    # -- What has to hold

    def check(self) -> Reading:
        reading = self.ledger.read()
        assert reading.captured == reading.delivered + reading.waiting + sum(reading.dropped.values())
        assert min(reading.delivered, reading.waiting_in_memory, *reading.spools.values(), 0) == 0, reading
        assert reading.waiting_on_disk == sum(reading.spools.values())
        assert self.store.memory_bytes >= 0
        assert max(self.delivered.values(), default=1) == 1, "delivered twice"
        return reading

    def deliver_all(self) -> Reading:
        """The disk and the receiver are well: after some rounds, nothing waits any more."""
        while self.leased:
            self.settle()
        for _ in range(ROUNDS):
            self.now += RETRY_SECONDS
            self.keep()
            for destination in (ONE, TWO):
                while self.take(destination, fresh=True) or self.take(destination):
                    self.settle()
            if self.now > 2 * RETRY_SECONDS and not self.check().waiting and self.store.spools.trouble is None:
                break
        self.keep()
        return self.check()

    def everything_arrived(self) -> None:
        reading = self.deliver_all()
        assert reading.dropped == {}
        assert reading.waiting == 0
        assert sorted(self.delivered) == sorted(self.put_ids)
        assert self.store.memory_bytes == 0
        assert [self.store.due(destination, 1, 0.0) for destination in (ONE, TWO)].count(0.0) == 0
        assert self.store.spools.trouble is None
        for lanes in self.store._lanes.values():  # else what was sent would fill the memory, seen by nobody
            assert (lanes.held, lanes.leased, lanes.checkpoints) == (set(), set(), {})
            assert (lanes.fresh_bytes, lanes.fresh_events) == (0, 0)
        self.store.close()
        assert sorted(self.folder.glob("*")) == []


type Script = Callable[[World], object]
