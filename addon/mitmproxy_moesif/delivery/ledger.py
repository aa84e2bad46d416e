"""Where every captured event is: delivered, waiting or dropped under a named cause.

captured = delivered + waiting + dropped holds at every reading, since each move is one step under one lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mitmproxy_moesif.config.text import number_of

KEPT_ACCOUNTS = 16
"""Of the files taken over last: who adds up the counts of several proxies has read them soon."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a process had done when it last wrote to its spool file, which keeps it; with the file's rows, that is all.

    `proxy` names the proxy whose exchanges are numbered, and `settled` is the last number of those that are stored,
    delivered or dropped. `recovered` events were found in files of others; `in_memory` were stored in memory alone.
    `adopted`: the files of others that it took over last, and what was found there.
    """

    proxy: str
    settled: int
    recovered: int
    in_memory: int
    dropped: dict[str, int]
    adopted: dict[str, Adoption] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Account:
        """From what `asdict` or JSON made of one."""
        return cls(**{**plain, "adopted": adoptions(plain["adopted"])})

    def shallow(self) -> Account:
        """Without the accounts that were found in files whose processes had taken over others: it must not grow."""
        return replace(self, adopted={name: one.without_accounts() for name, one in self.adopted.items()})


@dataclass(frozen=True, slots=True)
class Adoption:
    """A file of a process that ended was taken over: when (monotonic seconds), its events, and its account if known."""

    at: float
    events: int
    account: Account | None = None

    def without_accounts(self) -> Adoption:
        """Of other files."""
        if self.account is None:
            return self
        bare = {name: replace(one, account=None) for name, one in self.account.adopted.items()}
        return replace(self, account=replace(self.account, adopted=bare))


def adoptions(plain: Mapping[str, Any]) -> dict[str, Adoption]:
    return {
        name: Adoption(one["at"], one["events"], Account.of(one["account"]) if one["account"] else None)
        for name, one in plain.items()
    }


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent look at the ledger; numbers of events. `recovered` are those of `captured` found on disk.

    `spools`: how many of them wait in each file, by name; `adopted`: the files of others that this process took over.
    `entered` is the number of the last exchange that came, `settled` of the last one up to which all are stored,
    delivered or dropped; `proxy` names who gives these numbers, and `folder` is where its spool is, if it has one.
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
    adopted: dict[str, Adoption] = field(default_factory=dict)
    entered: int = 0
    proxy: str = ""
    folder: str = ""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Reading:
        """From what `asdict` made of one."""
        return cls(**{**plain, "adopted": adoptions(plain["adopted"])})

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

    def last_words(self) -> str:
        """At the end of a proxy: the counts, and where the events are that it leaves on disk."""
        if not self.waiting_on_disk:
            return f"moesif: {self.line()}"
        left = f"{number_of(self.waiting_on_disk, 'event')} in {self.folder or 'the spool'} for the next start"
        return f"moesif: leaves {left}\nmoesif: {self.line()}"

    def last(self, cause: str, account: Account | None, found: Mapping[str, int]) -> Reading:
        """What a process had done that died after this reading, from its account, and the events found in its files.

        What was in memory alone is dropped for this cause; what was stored and is not found was delivered. Without an
        account, this reading is all that is known.
        """
        if account is None:
            account, found = Account(self.proxy, self.settled, self.recovered, 0, {}), self.spools
        in_memory = self.waiting_in_memory - (self.entered - self.settled)
        settled, recovered = max(self.settled, account.settled), max(self.recovered, account.recovered)
        entered = max(self.entered, settled)
        captured = self.captured + entered - self.entered + recovered - self.recovered
        lost = entered - settled + (account.in_memory if account.settled > self.settled else in_memory)
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
        )


NOTHING = Reading(0, 0, 0, 0, 0)
"""Of a process that has done nothing yet."""

type Place = str | None
"""Where an event is stored: the name of a spool file, None for in memory alone."""


@dataclass(slots=True)
class Settlement:
    """What became of exchanges that were taken one after the other; `number` is the last one's."""

    number: int = 0
    stored: Counter[Place] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Counts by place and cause, from where `past`, its predecessor, ended.

    `changed` is set whenever a count changed; who waits for it clears it.
    """

    def __init__(self, past: Reading = NOTHING) -> None:
        self._lock = threading.Lock()
        self.changed = threading.Event()
        self._proxy, self._folder = past.proxy, past.folder
        self._settled = past.settled
        self._stored: Counter[Place] = Counter(past.spools)
        self._past = set(past.spools)
        self._adopted = dict(past.adopted)
        self._recovered = past.recovered
        self._delivered = past.delivered
        self._dropped: Counter[str] = Counter(past.dropped)
        self._faults: Counter[str] = Counter(past.faults)

    def settle(self, settlement: Settlement) -> None:
        """Into the store, or to nowhere: in one step, so that none counts before those ahead of it."""
        with self._lock:
            self._stored.update(settlement.stored)
            self._dropped += settlement.dropped
            self._settled = settlement.number
            self._tell()

    def account(self, settlement: Settlement | None = None) -> Account:
        """For the spool file; as it will be when this is settled."""
        with self._lock:
            done = settlement or Settlement(self._settled)
            in_memory = self._stored[None] + done.stored[None]
            dropped = dict(self._dropped + done.dropped)
            adopted = dict(list(self._adopted.items())[-KEPT_ACCOUNTS:])
            return Account(self._proxy, done.number, self._recovered, in_memory, dropped, adopted)

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

    def recover(self, count: int, found: str, place: str, account: Account | None = None) -> None:
        """Found in a file that a process left which ended; they are in `place` now, mostly the same file.

        Those that this process's predecessor had left there are counted already.
        """
        with self._lock:
            self._past.discard(found)
            self._recovered += count - self._stored.pop(found, 0)
            self._stored[place] += count
            self._adopted[found] = Adoption(time.monotonic(), count, account.shallow() if account is not None else None)
            for name in list(self._adopted)[:-KEPT_ACCOUNTS]:
                self._adopted[name] = replace(self._adopted[name], account=None)
            self._tell()

    def lose(self, count: int, cause: str) -> None:
        """Found on disk and not readable."""
        with self._lock:
            self._recovered += count
            self._dropped[cause] += count
            self._tell()

    def found_all(self) -> None:
        """What the predecessor had left and is not found is not ours any more: another process took it over."""
        with self._lock:
            for name in self._past:
                self._recovered -= self._stored.pop(name)
            self._past.clear()
            self._tell()

    def abandon(self, cause: str) -> None:
        """The process ends: what is stored in memory alone ends with it."""
        with self._lock:
            self._dropped += Counter({cause: self._stored.pop(None, 0)})
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
                captured=self._settled + self._recovered,
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
            )

    def _tell(self) -> None:
        if not self.changed.is_set():
            self.changed.set()
