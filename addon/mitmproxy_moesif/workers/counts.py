"""The counts of several workers as one: an event counts once, whichever of them died or took over whose file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mitmproxy_moesif.delivery import ledger
from mitmproxy_moesif.delivery.ledger import NOTHING, Adoption, Reading

WAITS_FOR_ACCOUNT = 30.0
"""Seconds in which another worker should have taken over the spool of one that died, and read its account."""

type Adopted = Mapping[str, Sequence[Adoption]]
"""Who took over each file, by its name, one after the other."""


class Dead:
    """The last readings of workers that died.

    Such a reading is up to a second old. What the worker did after it is in its spool file, and known when another has
    taken that over, who may have died itself: so nothing is final before `WAITS_FOR_ACCOUNT`. Until an account is
    found, what its worker had in memory still counts as waiting.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._final = NOTHING
        self._lately: list[tuple[Reading, float]] = []

    def add(self, reading: Reading) -> None:
        self._lately.append((reading, self._clock() + WAITS_FOR_ACCOUNT))

    @property
    def told(self) -> list[Reading]:
        """As they were told, those that are final in one."""
        return [self._final, *(reading for reading, _ in self._lately)]

    def unknown(self, adopted: Adopted) -> list[Reading]:
        """Those whose account was not found yet."""
        return [reading for reading, _ in self._lately if last_of(reading, adopted) is None]

    def readings(self, adopted: Adopted, *, at_end: bool) -> list[Reading]:
        """As they are known now; at the end, what was in memory is lost."""
        lately, self._lately = self._lately, []
        for reading, until in lately:
            if self._clock() < until:
                self._lately.append((reading, until))
            else:
                self._final = added_up([self._final, final(reading, adopted)], adopted)
        known = (final(one, adopted) if at_end else last_of(one, adopted) or one for one, _ in self._lately)
        return [self._final, *known]


def final(reading: Reading, adopted: Adopted) -> Reading:
    return last_of(reading, adopted) or reading.last("worker_died", None, {})


def last_of(reading: Reading, adopted: Adopted) -> Reading | None:
    """All that a dead worker had done, where its account was found, by who took its files over first."""
    accounts = [
        (one.account, name, one.events)
        for name, history in adopted.items()
        for one in history[:1]
        if one.account is not None and one.account.proxy == reading.proxy
    ]
    if not accounts:
        return None
    account, file, events = max(accounts, key=lambda found: found[0].settled)
    found = {file: events}
    for name, its in account.adopted.items():
        if later := [one for one in adopted.get(name, ()) if one.at > its.at]:
            found[name] = later[0].events
    return reading.last("worker_died", account, found)


def left_behind(dead: Sequence[Reading]) -> Reading:
    """What workers that died left in their spools, as one tells it who takes that over."""
    from mitmproxy_moesif.delivery.spool.file import look_into  # SQLite: nothing for a supervisor whose workers live

    proxies, now = {reading.proxy for reading in dead}, time.monotonic()
    adopted: dict[str, Adoption] = {}
    for folder in {Path(reading.folder) for reading in dead if reading.folder}:
        looks = {path.name: look_into(path) for path in folder.glob("spool-*.sqlite")}
        theirs = {name: account for name, (account, _) in looks.items() if account and account.proxy in proxies}
        for name in {*theirs, *(other for account in theirs.values() for other in account.adopted)}:
            account, events = looks.get(name, (None, 0))
            adopted[name] = Adoption(now, events, account)
    spools = {name: one.events for name, one in adopted.items() if one.events}
    events = sum(spools.values())
    return Reading(events, events, 0, 0, events, spools=spools, adopted=adopted)


def total(readings: Sequence[Reading], dead: Dead, *, at_end: bool = False) -> Reading:
    """Of workers that run, and those that died."""
    adopted = adoptions_of([*readings, *dead.told])
    return added_up([*readings, *dead.readings(adopted, at_end=at_end)], adopted)


def adoptions_of(readings: Sequence[Reading]) -> Adopted:
    """Also those that only the accounts of dead workers tell of."""
    known: dict[str, dict[float, Adoption]] = {}

    def add(found: Mapping[str, Adoption]) -> None:
        for name, one in found.items():
            history = known.setdefault(name, {})
            if history.get(one.at, one).account is None:  # who keeps many forgets the accounts of the first
                history[one.at] = one
            history.setdefault(one.at, one)
            if one.account is not None:
                add(one.account.adopted)

    for reading in readings:
        add(reading.adopted)
    return {name: [history[at] for at in sorted(history)] for name, history in known.items()}


def added_up(readings: Sequence[Reading], adopted: Adopted) -> Reading:
    """Counts what is in a spool file once: with whom took it over last, else with the one that made it."""
    counted = ledger.added_up([without_those_of_others(reading, adopted) for reading in readings])
    return replace(counted, adopted={name: history[-1] for name, history in adopted.items()})


def without_those_of_others(reading: Reading, adopted: Adopted) -> Reading:
    """Without the events of files that others took over after it had them."""
    spools = {}
    for name, count in reading.spools.items():
        newest, its = adopted.get(name, [None])[-1], reading.adopted.get(name)
        if newest is None or (its is not None and newest.at == its.at):
            spools[name] = count
    elsewhere = sum(reading.spools.values()) - sum(spools.values())
    return replace(
        reading,
        captured=reading.captured - elsewhere,
        waiting_on_disk=reading.waiting_on_disk - elsewhere,
        spools=spools,
    )
