"""Which fault comes next, and how it is done. Two tracks: one troubles the collector, one the proxy."""

from __future__ import annotations

import math
import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.soak.audit import Audit
from tests.soak.children import Child
from tests.soak.collector import MODES
from tests.soak.journal import Journal
from tests.soak.judgement import Span
from tests.soak.lives import SPOOL, End, Life, Lives
from tests.soak.monitor import Monitor

COLLECTOR_FAULTS = (*(name for name in MODES if name != "plain"), "closed", "stopped")
PROXY_FAULTS = (
    *("kill", "kill", "kill", "terminate"),
    *("remove folder", "remove folder and kill", "remove folder and terminate"),
    "debug",
)
LASTING_FAULTS = ("remove folder", "debug", "debug")
"""Those that the proxy lives through."""

LONGEST_OUTAGE = 15.0
IN_HAND_SECONDS = 1.0
"""Of a collector that hangs, until a batch is surely on its way."""
ADOPTED_SECONDS = 20.0
BACK_ON_DISK_SECONDS = 20.0
SETTLED_SECONDS = 5.0
"""The keeper of the spool comes by every two seconds, and again: then all is on disk that was in the lost folder."""


class Deck:
    """Draws each of the cards once, in an order of the dice's, then all of them again."""

    def __init__(self, dice: random.Random, cards: Sequence[str]) -> None:
        self._dice = dice
        self._cards = cards
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = self._dice.sample(self._cards, len(self._cards))
        return self._left.pop()


class CollectorTrack:
    """Trouble for a few seconds, then none for a few; `pace` shortens both. `stopped` are the times of SIGSTOP.

    After `quiet_after` seconds, when the proxy is ended no more, comes one outage that is longer than all others: what
    memory a backlog takes is taken before that memory is measured.
    """

    def __init__(self, seed: int, pace: float, quiet_after: float, collector: Child, journal: Journal) -> None:
        self.stopped: list[Span] = []
        self.now = "plain"
        self._turn = threading.Lock()
        self._outage_at = time.monotonic() + quiet_after
        self._dice = random.Random(f"collector's track {seed}")
        self._deck = Deck(self._dice, COLLECTOR_FAULTS)
        self._pace = pace
        self._collector = collector
        self._journal = journal

    def run(self, ending: threading.Event) -> None:
        while not ending.wait(self._dice.uniform(0.5, 4) * self._pace):
            if time.monotonic() > self._outage_at:
                fault, seconds, share = "closed", LONGEST_OUTAGE * self._pace, 1.0
                self._outage_at = math.inf
            else:
                fault, seconds = self._deck.draw(), self._dice.uniform(1.5, 6) * self._pace
                share = self._dice.choice([1.0, 0.5, 0.2])
            self._journal.note(f"collector: {fault} for {seconds:.1f} s, share {share}")
            self.trouble(fault, share, partial(ending.wait, seconds))

    def trouble(self, fault: str, share: float, wait: Callable[[], object]) -> None:
        """This fault until `wait` returns; one at a time."""
        with self._turn:
            self._journal.count(fault)
            self.now = fault
            try:
                self._do(fault, share, wait)
            finally:
                self.now = "plain"
                self._journal.note(f"collector: {fault} is over")

    def _do(self, fault: str, share: float, wait: Callable[[], object]) -> None:
        if fault == "stopped":
            began = time.monotonic()
            self._collector.stop()
            try:
                wait()
            finally:
                self._collector.go_on()
                self.stopped.append((began, time.monotonic() + 1))
            return
        closed = fault == "closed"
        self._collector.ask("refuse") if closed else self._collector.ask("mode", name=fault, share=share)
        try:
            wait()
        finally:
            self._collector.ask("listen") if closed else self._collector.ask("mode", name="plain", share=1.0)


class ProxyTrack:
    """Ends the proxy and starts it again for `ending_seconds`; after them, one life is left to be measured."""

    def __init__(
        self,
        seed: int,
        pace: float,
        ending_seconds: float,
        lives: Lives,
        collector: CollectorTrack,
        monitor: Monitor,
        audit: Audit,
        journal: Journal,
    ) -> None:
        self._dice = random.Random(f"proxy's track {seed}")
        self._pace = pace
        self._ending_seconds = ending_seconds
        self._lives = lives
        self._collector = collector
        self._monitor = monitor
        self._audit = audit
        self._journal = journal

    def start_life(self) -> Life:
        return self._lives.start(compress=self._dice.random() < 0.5)

    def run(self, ending: threading.Event) -> None:
        ends_until = time.monotonic() + self._ending_seconds
        ends, lasting = Deck(self._dice, PROXY_FAULTS), Deck(self._dice, LASTING_FAULTS)
        while True:
            has_ends = time.monotonic() < ends_until
            if ending.wait(self._dice.uniform(2, 8) * self._pace * (1 if has_ends else 3)):
                return
            fault = ends.draw() if has_ends else lasting.draw()
            self._journal.note(f"proxy: {fault}")
            self._journal.count(fault)
            self._do(fault, ending)

    def _do(self, fault: str, ending: threading.Event) -> None:
        match fault:
            case "kill" | "terminate" as how:
                self._end(how)
            case "remove folder":
                self._remove_folder(ending)
            case "remove folder and kill":
                self._collector.trouble("hang", 1.0, partial(self._remove_folder, ending, IN_HAND_SECONDS))
                self._end("kill")
            case "remove folder and terminate":
                self._lose_folder(ending)
                ending.wait(self._dice.uniform(0, 1))
                self._end("terminate")
            case "debug":
                self._debug(ending)

    def _end(self, how: End) -> None:
        self._monitor.read()
        self._audit.after(self._lives.end(how))
        self.start_life()

    def _debug(self, ending: threading.Event) -> None:
        self._monitor.change(debug="true")
        ending.wait(self._dice.uniform(0.5, 3) * self._pace)
        self._monitor.change(debug="false")

    def _lose_folder(self, ending: threading.Event) -> None:
        """What earlier lives left and this one has not opened yet would rightly be gone."""
        life = self._lives.current
        assert life is not None
        deadline = time.monotonic() + ADOPTED_SECONDS
        while life.unopened > 0:
            if time.monotonic() > deadline:
                self._journal.found("folder", f"the spool was not taken over within {ADOPTED_SECONDS:.0f} s")
                return
            if ending.wait(0.1):
                return
        shutil.rmtree(self._lives.folder / SPOOL, ignore_errors=True)

    def _remove_folder(self, ending: threading.Event, after: float = 0) -> None:
        """Nothing ends the proxy before all is on disk again: what the folder held would rightly be gone."""
        if ending.wait(after):
            return
        life = self._lives.current
        assert life is not None
        before = life.proxy.output.count("the spool works again")
        self._lose_folder(ending)
        deadline = time.monotonic() + BACK_ON_DISK_SECONDS
        while life.proxy.output.count("the spool works again") == before:
            if time.monotonic() > deadline:
                self._journal.found("folder", f"the spool was not back on disk within {BACK_ON_DISK_SECONDS:.0f} s")
                return
            if ending.wait(0.1):
                return
        ending.wait(SETTLED_SECONDS)
