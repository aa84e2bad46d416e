"""The total counts of several workers. Each event counts once, even if a worker died and another took over its file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from mitmproxy_moesif.delivery import ledger
from mitmproxy_moesif.delivery.ledger import NOTHING, Account, Adoption, Reading

WAITS_FOR_ACCOUNT = 30.0
"""Seconds within which another worker should have taken over a dead worker's spool and read its account."""

STORES_WITHIN = 5.0
"""Seconds that a dead worker's delivery process has to store its last events, when the others have ended too."""

type Adopted = Mapping[str, Sequence[Adoption]]
"""The takeovers of each spool file, by file name, in order."""


class Dead:
    """The last readings of workers that died.

    Such a reading is up to a second old. What the worker did afterwards is in the account in its spool file. This is
    known once another worker has taken over the file, but that one may have died too; so a reading becomes final only
    after `WAITS_FOR_ACCOUNT`. Until the account is found, events that were in memory still count as waiting.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._final = NOTHING
        self._lately: list[tuple[Reading, float]] = []
        self._groups: set[int] = set()

    def add(self, reading: Reading, group: int | None = None) -> None:
        """`group`: the process group of the worker and its delivery process."""
        if group is not None:
            self._groups.add(group)
        self._lately.append((reading, self._clock() + WAITS_FOR_ACCOUNT))

    @property
    def told(self) -> list[Reading]:
        """The readings as reported; the final ones are added up into one."""
        return [self._final, *(reading for reading, _ in self._lately)]

    def still_store(self) -> bool:
        """Whether a process of a dead worker's is left: its delivery process may only just have started."""
        self._groups = {group for group in self._groups if is_alive(group)}
        return bool(self._groups)

    @property
    def lately(self) -> list[Reading]:
        """The readings that are not final."""
        return [reading for reading, _ in self._lately]

    def unknown(self, adopted: Adopted) -> list[Reading]:
        """The readings of workers that have a spool, and whose account was not found yet, or only an older one."""
        newest = {one.proxy: max((found[0] for found in accounts_of(one, adopted)), default=-1) for one in self.lately}
        return [one for one in self.lately if one.folder and newest[one.proxy] < one.changes]

    def readings(self, adopted: Adopted, *, at_end: bool) -> list[Reading]:
        """The readings as far as they are known now. `at_end`: events that were in memory count as lost."""
        lately, self._lately = self._lately, []
        for reading, until in lately:
            if self._clock() < until:
                self._lately.append((reading, until))
            else:
                self._final = added_up([self._final, final(reading, adopted)], adopted)
        known = (final(one, adopted) if at_end else last_of(one, adopted) or one for one, _ in self._lately)
        return [self._final, *known]


def is_alive(group: int) -> bool:
    """Whether there is any process in this process group.

    In a container, as process 1, the supervisor inherits the delivery processes of dead workers: it has to reap them.
    """
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG) != (0, 0):
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # on macOS, if only one that has ended is left, or another user's
    return True


def final(reading: Reading, adopted: Adopted) -> Reading:
    return last_of(reading, adopted) or reading.last("worker_died", None, {})


def last_of(reading: Reading, adopted: Adopted) -> Reading | None:
    """A dead worker's final counts from its account, as read by the first worker that took over its files.

    None if no account was found.
    """
    accounts = accounts_of(reading, adopted)
    if not accounts:
        return None
    # If a damaged file was replaced, both have the account: the file that was found first tells what was in it.
    _, _, account, file, events = max(accounts, key=itemgetter(0, 1))
    found = {**account.past, file: events}
    for name, at in account.files.items():
        if later := [one for one in adopted.get(name, ()) if one.at > at]:
            found[name] = later[0].events
    return reading.last("worker_died", account, found)


def accounts_of(reading: Reading, adopted: Adopted) -> list[tuple[int, float, Account, str, int]]:
    """The accounts of a dead worker's delivery processes: number of changes, when found (negated), file, its events."""
    return [
        (one.account.changes, -one.at, one.account, name, one.events)
        for name, history in adopted.items()
        for one in history[:1]
        if one.account is not None and one.account.proxy == reading.proxy
    ]


def left_behind(dead: Sequence[Reading], readings: Sequence[Reading] = ()) -> Reading:
    """What dead workers left in their spools, as a reading of a worker that took it all over.

    Includes what they had taken over themselves, except the files that others, with these `readings`, have counted.
    """
    from mitmproxy_moesif.delivery.spool.file import look_into  # imports SQLite, only needed if workers died

    proxies, now = {reading.proxy for reading in dead}, time.monotonic()
    folders = {Path(reading.folder) for reading in dead if reading.folder}
    looks = {path.name: look_into(path) for folder in folders for path in folder.glob("spool-*.sqlite")}
    left = {name: Adoption(now, events or 0, account) for name, (account, events) in looks.items()}
    theirs = {name: one for name, one in left.items() if one.account is not None and one.account.proxy in proxies}
    adopted = adoptions_of([*readings, *dead, replace(NOTHING, adopted=theirs)])
    accounts = [one.account for history in adopted.values() for one in history if one.account is not None]
    names = {name for account in accounts if account.proxy in proxies for name in {*account.files, *account.past}}
    elsewhere = {name for one in readings for name in one.spools if is_last_to_have(one, name, adopted)}
    took = theirs | {name: left.get(name, Adoption(now, 0)) for name in names - elsewhere}
    spools = {name: one.events for name, one in took.items() if one.events}
    events = sum(spools.values())
    return Reading(events, events, 0, 0, events, spools=spools, adopted=took)


def in_use(dead: Dead) -> bool:
    """Whether a process still has a spool file where those of dead workers are: it may store something yet."""
    from mitmproxy_moesif.delivery.spool.lock import FileLock

    if dead.still_store():
        return True
    folders = {Path(reading.folder) for reading in dead.lately if reading.folder}
    return any(FileLock.is_held(path) for folder in folders for path in folder.glob("spool-*.sqlite.lock"))


def total(readings: Sequence[Reading], dead: Dead, *, at_end: bool = False) -> Reading:
    """The total of running and dead workers."""
    adopted = adoptions_of([*readings, *dead.told])
    return added_up([*readings, *dead.readings(adopted, at_end=at_end)], adopted)


def total_at_end(readings: Sequence[Reading], dead: Dead, seconds: float = STORES_WITHIN) -> Reading:
    """The total after all workers have ended. What dead workers did last is read from their spools.

    Their delivery processes may still be storing it, so this looks again for up to `seconds`.
    """
    until = time.monotonic() + seconds
    left, waits = NOTHING, bool(dead.lately)
    while waits:
        stores = in_use(dead)  # before the look, which must not miss what is stored last
        left = left_behind(dead.lately, readings)
        unknown = dead.unknown(adoptions_of([*readings, *dead.told, left]))
        waits = (stores or bool(unknown)) and time.monotonic() < until
        if waits:
            time.sleep(0.1)
    return total([*readings, left], dead, at_end=True)


def adoptions_of(readings: Sequence[Reading]) -> Adopted:
    """All takeovers, including those known only from the accounts of dead workers."""
    known: dict[str, dict[float, Adoption]] = {}

    def add(found: Mapping[str, Adoption]) -> None:
        for name, one in ((name, one) for name, last in found.items() for one in last.all()):
            history = known.setdefault(name, {})
            if history.get(one.at, one).account is None:  # a worker with many takeovers drops the oldest accounts
                history[one.at] = one
            history.setdefault(one.at, one)
            if one.account is not None:
                add(one.account.adopted)

    for reading in readings:
        add(reading.adopted)
    return {name: [history[at] for at in sorted(history)] for name, history in known.items()}


def added_up(readings: Sequence[Reading], adopted: Adopted) -> Reading:
    """The sum. Events in a spool file count once: for the last worker that took it over, or else for its creator."""
    counted = ledger.added_up([without_those_of_others(reading, adopted) for reading in readings])
    return replace(counted, adopted={name: history[-1] for name, history in adopted.items()})


def without_those_of_others(reading: Reading, adopted: Adopted) -> Reading:
    """The reading without the events in files that other workers have taken over since."""
    spools = {name: count for name, count in reading.spools.items() if is_last_to_have(reading, name, adopted)}
    elsewhere = sum(reading.spools.values()) - sum(spools.values())
    return replace(
        reading,
        captured=reading.captured - elsewhere,
        waiting_on_disk=reading.waiting_on_disk - elsewhere,
        spools=spools,
    )


def is_last_to_have(reading: Reading, name: str, adopted: Adopted) -> bool:
    """Whether nobody else has taken over this file since."""
    newest, its = adopted.get(name, [None])[-1], reading.adopted.get(name)
    return newest is None or (its is not None and newest.at == its.at)
