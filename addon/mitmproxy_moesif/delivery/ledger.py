"""Counts where every captured event is: delivered, waiting, or dropped for a named cause.

captured = delivered + waiting + dropped holds at every reading, since each change is one step under one lock. It holds
for events, which are never lost silently, and for the records of each receiver that may lose some.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mitmproxy_moesif.config.text import number_of

KEPT_ACCOUNTS = 16
"""Accounts kept of the files taken over last. Whoever adds up the counts of several proxies reads them soon."""


KEPT_TAKEOVERS = 4
"""Takeovers kept of one file by one proxy, besides the first."""


@dataclass(frozen=True, slots=True)
class Account:
    """A process's counts when it last wrote to its spool file, which stores them. With the file's rows, it is complete.

    `proxy` names the proxy that numbered the exchanges; all numbers up to `settled` are stored, delivered or dropped.
    `recovered` events were found in other processes' files; `in_memory` were stored only in memory. `adopted`: the
    files of other processes that it took over last, and what was in them. Of the exchanges numbered so far,
    `elsewhere` had no receiver of events, and `offered` went to receivers that may lose them, by name. `changes` tells
    which of two counts of one proxy is newer. `files`: those of other processes whose events it counts, with the time
    (monotonic seconds) when it took them over. `past`: the events in those that its predecessor had and it has not
    found yet.
    """

    proxy: str
    settled: int
    recovered: int
    in_memory: int
    dropped: dict[str, int]
    adopted: dict[str, Adoption] = field(default_factory=dict)
    elsewhere: int = 0
    offered: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    files: dict[str, float] = field(default_factory=dict)
    past: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Account:
        """From the output of `asdict`, or from JSON."""
        return cls(**{**plain, "adopted": adoptions(plain["adopted"])})

    def bounded(self) -> Account:
        """With as many levels of nested accounts as hold at most `KEPT_ACCOUNTS` in all: it must not grow for ever.

        If several processes die one after the other, each soon after its start, nothing else is left of the first.
        """
        depth, known, level = 0, 0, [self]
        while level:
            adopted = [one for account in level for last in account.adopted.values() for one in last.all()]
            level = [one.account for one in adopted if one.account is not None]
            known += len(level)
            if known > KEPT_ACCOUNTS:
                break
            depth += 1
        return self.cut(depth)

    def cut(self, depth: int) -> Account:
        """Without the accounts nested below `depth` levels."""
        adopted = {name: one.cut(depth) for name, one in self.adopted.items()}
        return replace(self, adopted=adopted)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A dead process's file that was taken over: when (monotonic seconds), its events, and its account if known.

    `earlier`: when the same proxy took it over before, as others may have had it in between.
    """

    at: float
    events: int
    account: Account | None = None
    earlier: Adoption | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Adoption:
        account, earlier = plain["account"], plain.get("earlier")
        return cls(
            at=plain["at"],
            events=plain["events"],
            account=Account.of(account) if account else None,
            earlier=cls.of(earlier) if earlier else None,
        )

    def cut(self, depth: int) -> Adoption:
        """With at most `depth` levels of accounts."""
        account = self.account.cut(depth - 1) if self.account is not None and depth else None
        return replace(self, account=account, earlier=self.earlier.cut(depth) if self.earlier is not None else None)

    def after(self, earlier: Adoption | None) -> Adoption:
        """With the earlier ones: the first, whose account others need, and the last few."""
        kept = list(earlier.all()) if earlier is not None else []
        chain: Adoption | None = None
        for one in reversed([self, *kept[: KEPT_TAKEOVERS - 1], *kept[KEPT_TAKEOVERS - 1 :][-1:]]):
            chain = replace(one, earlier=chain)
        assert chain is not None
        return chain

    def all(self) -> Iterator[Adoption]:
        """This one, and all earlier ones."""
        yield self
        if self.earlier is not None:
            yield from self.earlier.all()


def adoptions(plain: Mapping[str, Any]) -> dict[str, Adoption]:
    return {name: Adoption.of(one) for name, one in plain.items()}


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts for a receiver that may lose records; those neither delivered nor dropped are waiting."""

    captured: int = 0
    delivered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        return self.captured - self.delivered - sum(self.dropped.values())

    def __add__(self, other: Tally) -> Tally:
        dropped = dict(Counter(self.dropped) + Counter(other.dropped))
        return Tally(self.captured + other.captured, self.delivered + other.delivered, dropped)

    def last(self, cause: str, captured: int = 0) -> Tally:
        """Counts what is waiting as dropped for `cause`; a larger `captured` replaces the known one."""
        now = replace(self, captured=max(self.captured, captured))
        return replace(now, dropped=dict(Counter(now.dropped) + Counter({cause: now.waiting})))

    def line(self) -> str:
        return line(self.captured, self.delivered, self.waiting, self.dropped)


def added(tallies: Iterable[Mapping[str, Tally]]) -> dict[str, Tally]:
    """The sum of the tallies of each receiver."""
    total: dict[str, Tally] = {}
    for name, tally in (item for several in tallies for item in several.items()):
        total[name] = total.get(name, Tally()) + tally
    return total


def line(captured: int, delivered: int, waiting: int, dropped: Mapping[str, int]) -> str:
    """`captured N, delivered N, waiting N, dropped N (cause N, ...)`."""
    causes = ", ".join(f"{cause} {count}" for cause, count in sorted(dropped.items()))
    counts = f"captured {captured}, delivered {delivered}, waiting {waiting}, dropped {sum(dropped.values())}"
    return counts + (f" ({causes})" if causes else "")


@dataclass(frozen=True, slots=True)
class Reading:
    """A consistent snapshot of the ledger, in numbers of events. `recovered`: the part of `captured` found on disk.

    `spools`: events waiting in each file, by name; `adopted`: files of other processes that this process took over.
    `entered` is the number of the last exchange received; all numbers up to `settled` are stored, delivered or dropped.
    `proxy` names the proxy that assigns these numbers, and `folder` is where its spool is, if it has one.
    `elsewhere`: exchanges up to `entered` that have no receiver of events; they are not in `captured`.
    `lossy`: tallies of the receivers that may lose records, by name. `changes`: as in an `Account`.
    """

    captured: int
    recovered: int
    delivered: int
    waiting_in_memory: int
    waiting_on_disk: int
    dropped: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    excluded: int = 0
    settled: int = 0
    spools: dict[str, int] = field(default_factory=dict)
    adopted: dict[str, Adoption] = field(default_factory=dict)
    entered: int = 0
    proxy: str = ""
    folder: str = ""
    elsewhere: int = 0
    lossy: dict[str, Tally] = field(default_factory=dict)
    changes: int = 0

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Reading:
        """From the output of `asdict`."""
        lossy = {name: Tally(**tally) for name, tally in plain["lossy"].items()}
        return cls(**{**plain, "adopted": adoptions(plain["adopted"]), "lossy": lossy})

    @property
    def waiting(self) -> int:
        return self.waiting_in_memory + self.waiting_on_disk

    def line(self) -> str:
        return line(self.captured, self.delivered, self.waiting, self.dropped)

    def lines(self) -> list[str]:
        """One line for each receiver, with its name."""
        return [f"moesif: {self.line()}"] + [f"[akto-api] {name}: {of.line()}" for name, of in self.lossy.items()]

    def last_words(self) -> str:
        """For the end of a proxy: how many events it leaves on disk and where, and the counts of each receiver."""
        left = f"{number_of(self.waiting_on_disk, 'event')} in {self.folder or 'the spool'} for the next start"
        return "\n".join([f"moesif: leaves {left}"] * bool(self.waiting_on_disk) + self.lines())

    def last(self, cause: str, account: Account | None, found: Mapping[str, int]) -> Reading:
        """The final counts of a process that died after this reading, from its account and the events in its files.

        Events that were only in memory count as dropped for `cause`; stored events that are not found were delivered.
        Without an account, this reading is all that is known.
        """
        if account is None:
            account, found = Account(self.proxy, self.settled, self.recovered, 0, {}, changes=-1), self.spools
        is_newer = account.changes >= self.changes
        settled, recovered = max(self.settled, account.settled), account.recovered if is_newer else self.recovered
        entered, elsewhere = max(self.entered, settled), max(self.elsewhere, account.elsewhere)
        captured = self.captured + entered - self.entered + recovered - self.recovered - (elsewhere - self.elsewhere)
        lost = self.waiting_in_memory
        if is_newer:
            lost = entered - settled - (elsewhere - account.elsewhere) + account.in_memory
        dropped = Counter(self.dropped) | Counter(account.dropped)
        dropped += Counter({cause: lost})
        spools = Counter(found)
        return replace(
            self,
            captured=captured,
            recovered=recovered,
            delivered=captured - dropped.total() - spools.total(),
            waiting_in_memory=0,
            waiting_on_disk=spools.total(),
            dropped=dict(dropped),
            settled=settled,
            entered=entered,
            spools=dict(+spools),
            adopted={**self.adopted, **account.adopted},
            elsewhere=elsewhere,
            lossy={
                name: self.lossy.get(name, Tally()).last(cause, account.offered.get(name, 0))
                for name in {**self.lossy, **account.offered}
            },
            changes=max(self.changes, account.changes) + 1,
        )


def added_up(readings: Sequence[Reading]) -> Reading:
    """The sum of readings, as if from one process; without proxy name, exchange numbers and adopted files."""
    dropped, faults, spools = Counter[str](), Counter[str](), Counter[str]()
    for reading in readings:
        dropped.update(reading.dropped)
        faults.update(reading.faults)
        spools.update(reading.spools)
    return Reading(
        captured=sum(reading.captured for reading in readings),
        recovered=sum(reading.recovered for reading in readings),
        delivered=sum(reading.delivered for reading in readings),
        waiting_in_memory=sum(reading.waiting_in_memory for reading in readings),
        waiting_on_disk=sum(reading.waiting_on_disk for reading in readings),
        dropped=dict(dropped),
        faults=dict(faults),
        excluded=sum(reading.excluded for reading in readings),
        spools=dict(spools),
        lossy=added(reading.lossy for reading in readings),
    )


NOTHING = Reading(0, 0, 0, 0, 0)
"""The reading of a process that has done nothing yet."""

type Place = str | None
"""Where an event is stored: the name of a spool file, or None for memory only."""


@dataclass(slots=True)
class Settlement:
    """The outcome of consecutive exchanges; `number` is the last one's number.

    `elsewhere` had no receiver of events; `offered` go to receivers that may lose them, by name.
    """

    number: int = 0
    stored: Counter[Place] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0
    offered: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Counts by place and cause. Continues from `past`, the predecessor's last reading.

    `changed` is set whenever a count changes; the thread that waits for it clears it.
    """

    def __init__(self, past: Reading = NOTHING) -> None:
        self._lock = threading.Lock()
        self.changed = threading.Event()
        self._proxy, self._folder = past.proxy, past.folder
        self._settled = past.settled
        self._changes = past.changes
        self._stored: Counter[Place] = Counter(past.spools)
        self._past = set(past.spools)
        self._adopted = dict(past.adopted)
        self._files: dict[str, float] = {}
        self._recovered = past.recovered
        self._delivered = past.delivered
        self._dropped: Counter[str] = Counter(past.dropped)
        self._faults: Counter[str] = Counter(past.faults)
        self._elsewhere = past.elsewhere
        self._offered: Counter[str] = Counter({name: tally.captured for name, tally in past.lossy.items()})
        self._passed_on: Counter[str] = Counter({name: tally.delivered for name, tally in past.lossy.items()})
        self._missed: dict[str, Counter[str]] = {name: Counter(tally.dropped) for name, tally in past.lossy.items()}

    def settle(self, settlement: Settlement) -> None:
        """Count exchanges as stored or dropped, in one step, so that none counts before those ahead of it."""
        with self._lock:
            self._stored.update(settlement.stored)
            self._dropped += settlement.dropped
            self._elsewhere += settlement.elsewhere
            self._offered.update(settlement.offered)
            self._settled = settlement.number
            self._tell()

    def account(self, settlement: Settlement | None = None) -> Account:
        """The account for the spool file, as it will be once `settlement` is settled."""
        with self._lock:
            done = settlement or Settlement(self._settled)
            in_memory = self._stored[None] + done.stored[None]
            dropped = dict(self._dropped + done.dropped)
            adopted = dict(list(self._adopted.items())[-KEPT_ACCOUNTS:])
            return Account(
                proxy=self._proxy,
                settled=done.number,
                recovered=self._recovered,
                in_memory=in_memory,
                dropped=dropped,
                adopted=adopted,
                elsewhere=self._elsewhere + done.elsewhere,
                offered=dict(self._offered + done.offered),
                changes=self._changes + (settlement is not None),
                files={name: at for name, at in self._files.items() if self._stored[name]},
                past={name: self._stored[name] for name in self._past},
            )

    def move(self, count: int, place: Place, to: Place) -> None:
        with self._lock:
            self._stored[place] -= count
            self._stored[to] += count
            self._tell()

    def deliver(self, count: int, place: Place) -> None:
        """Count stored events as delivered."""
        with self._lock:
            self._stored[place] -= count
            self._delivered += count
            self._tell()

    def drop(self, count: int, cause: str, place: Place) -> None:
        """Count stored events as dropped."""
        with self._lock:
            self._stored[place] -= count
            self._dropped[cause] += count
            self._tell()

    def passed_on(self, receiver: str, count: int) -> None:
        """Count records that were delivered to a lossy receiver."""
        with self._lock:
            self._passed_on[receiver] += count
            self._tell()

    def missed(self, receiver: str, count: int, cause: str) -> None:
        """Count records that a lossy receiver did not get."""
        with self._lock:
            self._missed.setdefault(receiver, Counter())[cause] += count
            self._tell()

    def recover(self, count: int, found: str, place: str, account: Account | None = None, damaged: int = 0) -> None:
        """Count events found in the file `found` of a dead process; they are now in `place`, usually the same file.

        `damaged` ones cannot be read, and are dropped. Events that this process's predecessor left there are already
        counted.
        """
        with self._lock:
            now = time.monotonic()
            self._past.discard(found)
            self._recovered += count + damaged - self._stored.pop(found, 0)
            self._stored[place] += count
            self._dropped += Counter(spool_damaged=damaged)
            self._files[place] = now
            adoption = Adoption(now, count + damaged, account.bounded() if account is not None else None)
            self._adopted[found] = adoption.after(self._adopted.pop(found, None))
            for name in list(self._adopted)[:-KEPT_ACCOUNTS]:
                self._adopted[name] = self._adopted[name].cut(0)
            self._tell()

    def found_all(self) -> None:
        """Stop counting what the predecessor left and was not found: another process took it over."""
        with self._lock:
            for name in self._past:
                self._recovered -= self._stored.pop(name)
            self._past.clear()
            self._tell()

    def abandon(self, cause: str) -> None:
        """The process ends: drop the events stored only in memory, and all waiting records."""
        with self._lock:
            self._dropped += Counter({cause: self._stored.pop(None, 0)})
            self._missed = {name: Counter(tally.last(cause).dropped) for name, tally in self._tallies().items()}
            self._tell()

    def fault(self, kind: str) -> None:
        """Count an internal fault, which did not affect the traffic."""
        with self._lock:
            self._faults[kind] += 1
            self._tell()

    def read(self) -> Reading:
        with self._lock:
            spools = {place: count for place, count in self._stored.items() if place is not None and count}
            return Reading(
                captured=self._settled + self._recovered - self._elsewhere,
                recovered=self._recovered,
                delivered=self._delivered,
                waiting_in_memory=self._stored[None],
                waiting_on_disk=sum(spools.values()),
                dropped=dict(self._dropped),
                faults=dict(self._faults),
                settled=self._settled,
                spools=spools,
                adopted=dict(self._adopted),
                entered=self._settled,
                proxy=self._proxy,
                folder=self._folder,
                elsewhere=self._elsewhere,
                lossy=self._tallies(),
                changes=self._changes,
            )

    def _tallies(self) -> dict[str, Tally]:
        return {
            name: Tally(captured, self._passed_on[name], dict(self._missed.get(name, ())))
            for name, captured in self._offered.items()
        }

    def _tell(self) -> None:
        self._changes += 1
        if not self.changed.is_set():
            self.changed.set()
