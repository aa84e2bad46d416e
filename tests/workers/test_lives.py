"""Processes that die at any step, and take over each other's files: what all of them tell adds up to what happened."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.api import Condition, SpoolCondition
from mitmproxy_moesif.delivery.batch import Batch
from mitmproxy_moesif.delivery.client import DeliveryClient
from mitmproxy_moesif.delivery.ledger import NOTHING, Ledger, Reading, Settlement
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.file import LOCK, SpoolFile, sibling
from mitmproxy_moesif.delivery.spool.lock import FileLock
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.workers.counts import Dead, total, total_at_end
from tests.delivery.spool.spools import MIB
from tests.delivery.spool.stores import ONE

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
WORKERS = 3


def killed(store: Store) -> None:
    """What the kernel does with the files of a process that it ends."""
    for spool in store.spools.all:
        assert spool._connection is not None
        spool._connection.close()
        spool._connection = None
        spool._file_lock._abandon()


class Worker:
    """A proxy with its delivery process. Each exchange is stored at once; reports and readings come later."""

    def __init__(self, world: Supervised) -> None:
        self.world = world
        self.client = DeliveryClient(world.folder, MIB, lambda *_: None)
        self.captured: list[Chunk] = []
        self.told = NOTHING
        self._start()

    def _start(self) -> None:
        past = self.client._said.reading
        self.store = Store(ledger := Ledger(past), self.world.folder, MIB)
        self.ledger = ledger
        self.store.open()
        self.report()
        for number in range(past.settled + 1, len(self.captured) + 1):
            self._put(number)

    def _put(self, number: int) -> None:
        chunk = self.captured[number - 1]
        self.store.put([replace(chunk, key=None)], Settlement(number))

    def put(self) -> None:
        one = f"e{next(self.world.numbers)}"
        self.captured.append(Chunk(ONE, 1.5e9, (one,), (b'"' + one.encode() + b'"',)))
        self.client._entered += 1
        self.world.captured.append(one)
        self._put(len(self.captured))

    def send(self, answer: str) -> None:
        self.store.demote(ONE)
        if taken := self.store.take_backlog(ONE, 2, MIB):
            batch = Batch(taken)
            if answer == "accepted":
                self.world.delivered += [one for waiting in taken for one in waiting.chunk.transaction_ids]
                batch.mark_delivered(0, batch.count)
            else:
                self.world.refused.update(one for waiting in taken for one in waiting.chunk.transaction_ids)
                batch.mark_dropped(0, batch.count, "refused")
            self.store.settle(ONE, batch.parts)

    def look(self, most: int | None = None) -> None:
        """Take over files; all of them, or less if it is killed before."""
        found: Iterator[tuple[str, SpoolFile]] = self.store.spools.left_behind()
        for done, (name, spool) in enumerate(found, 1):
            self.store._adopt(name, spool)
            if done == most:
                return
        self.store.found_all()
        self.store.maintain()

    def report(self) -> None:
        spool = SpoolCondition(0, MIB, None, self.store.spools.own_file)
        self.client.heard(("report", protocol.from_condition(Condition(self.ledger.read(), {}, None, spool))))

    def tell(self) -> None:
        self.told = self.client.reading()

    def lose_helper(self, before_the_look: Callable[[], object] = lambda: None) -> None:
        killed(self.store)
        before_the_look()
        self.client.ended()
        self._start()

    def die(self) -> Reading:
        killed(self.store)
        return self.told

    def end(self) -> Reading:
        self.store.close()
        self.ledger.abandon("shutdown")
        self.report()
        return self.client.reading()


@dataclass
class Supervised:
    folder: Path
    captured: list[str] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    dead: Dead = field(default_factory=Dead)
    numbers: Iterator[int] = field(default_factory=count)
    workers: list[Worker] = field(default_factory=list)

    def act(self, what: str, which: int) -> None:
        worker = self.workers[which]
        match what:
            case "put":
                worker.put()
            case "accepted" | "refused":
                worker.send(what)
            case "look":
                worker.look()
            case "look once":
                worker.look(1)
            case "report":
                worker.report()
            case "tell":
                worker.tell()
            case "helper dies":
                worker.lose_helper()
            case "die":
                self.dead.add(worker.die())
                self.workers[which] = Worker(self)
                self.workers[which].tell()

    def end(self, killed: set[int]) -> Reading:
        readings = []
        for which, worker in enumerate(self.workers):
            if which in killed:
                self.dead.add(worker.die())
            else:
                readings.append(worker.end())
        return total_at_end(readings, self.dead, seconds=0)

    def holds(self, killed: set[int]) -> None:
        """What the exit line says is true."""
        last, stored = self.end(killed), self.stored()
        assert not {*self.delivered, *self.refused} & set(stored)
        truth = len(self.captured), len(self.delivered), len(stored), len(self.refused)
        assert (last.captured, last.delivered, last.waiting, sum(last.dropped.values())) == truth

    def stored(self) -> list[str]:
        """The events in all files, once all processes have ended."""
        store = Store(Ledger(), self.folder, MIB)
        store.adopt()
        rows = [(spool, row.key) for spool in store.spools.all for row in spool.index()]
        found = [one for spool, key in rows for one in spool.load(key).transaction_ids]
        killed(store)
        return found


ACTIONS = st.tuples(
    st.sampled_from(
        ["put", "put", "put", "accepted", "refused", "look", "look once", "report", "tell", "helper dies", "die"]
    ),
    st.integers(0, WORKERS - 1),
)


@contextmanager
def supervised() -> Iterator[Supervised]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        world = Supervised(Path(home))
        for _ in range(WORKERS):
            world.workers.append(Worker(world))
            world.workers[-1].tell()
        yield world


@settings(max_examples=300, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=40), at_end=st.sets(st.integers(0, WORKERS - 1)))
def test_whoever_dies_whenever_each_event_is_counted_once(actions: list[tuple[str, int]], at_end: set[int]) -> None:
    """`at_end`: the workers that are killed as all are about to end."""
    with supervised() as world:
        for action in actions:
            world.act(*action)
        world.holds(at_end)


def test_a_file_that_another_takes_over_between_two_looks_is_not_called_delivered() -> None:
    """The files of a dead delivery process are free at once, and its proxy looks into one after the other."""
    with supervised() as world:
        first, second, third = world.workers
        third.put()
        third.put()
        world.act("die", 2)
        first.look()
        first.report()
        (inherited,) = (spool for spool in first.store.spools.all if spool is not first.store.spools.current)

        def take() -> None:
            lock = FileLock.acquire(sibling(inherited.path, LOCK))
            assert lock is not None
            second.store._adopt(inherited.path.name, SpoolFile(inherited.path, lock, MIB))

        first.lose_helper(take)
        world.act("look", 0)
        world.holds(set())


def test_what_a_delivery_process_had_not_found_yet_when_it_died_is_not_called_delivered() -> None:
    """Two die one after the other: the second has stored something, but not yet taken over what the first left."""
    with supervised() as world:
        worker = world.workers[0]
        for action in ("put", "put", "report", "helper dies", "put", "helper dies", "look"):
            world.act(action, 0)
        reading = worker.ledger.read()
        assert (reading.captured, reading.delivered, reading.waiting) == (3, 0, 3)
        world.holds(set())


def test_events_given_up_to_another_worker_stay_given_up_when_their_own_dies() -> None:
    with supervised() as world:
        for action in [("put", 0), ("report", 0), ("helper dies", 0), ("look", 1), ("put", 0), ("look", 0), ("die", 0)]:
            world.act(*action)
        world.act("look", 1)
        world.holds(set())


def test_what_a_dead_worker_had_taken_over_and_nobody_after_it_is_found_at_the_end() -> None:
    """Another ended while it took the dead one's files over: it has the account, but not each file."""
    with supervised() as world:
        first, second, third = world.workers
        third.put()
        world.act("die", 2)
        first.look()
        first.put()
        own = first.store.spools.own_file
        world.act("die", 0)
        for name, spool in second.store.spools.left_behind():
            if name == own:
                second.store._adopt(name, spool)
            else:
                spool.close(keep=True)
        world.holds(set())


@pytest.mark.parametrize("where", ["a row", "the header"])
def test_the_account_in_a_damaged_file_survives_its_rescue(where: str) -> None:
    """Also a second time, when who has rescued it dies as well."""
    with supervised() as world:
        first, second, third = world.workers
        for _ in range(3):
            first.put()
        first.send("refused")
        first.put()
        own = world.folder / str(first.store.spools.own_file)
        world.act("die", 0)
        log = own.with_name(own.name + "-wal")
        if where == "a row":
            log.write_bytes(log.read_bytes().replace(b'"e3"', b'"#3"'))
        else:
            own.write_bytes(b"#" + own.read_bytes()[1:])
        second.look()
        lost = int(where == "a row")
        last = total([second.ledger.read()], world.dead)
        assert (last.captured, last.delivered, last.waiting) == (4, 0, 2 - lost)
        world.act("die", 1)
        third.look()
        last = total([third.ledger.read()], world.dead)
        assert (last.captured, last.delivered, last.waiting) == (4, 0, 2 - lost)
        assert last.dropped == {"refused": 2} | ({"spool_damaged": 1} if lost else {})
