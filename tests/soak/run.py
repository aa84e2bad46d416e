"""All of it together: starts what is needed, lets it run, waits for the backlog to drain, and sums up."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak import judgement
from tests.soak.audit import Audit
from tests.soak.children import Child
from tests.soak.faults import CollectorTrack, ProxyTrack
from tests.soak.journal import Journal
from tests.soak.lives import Lives
from tests.soak.load import Load
from tests.soak.monitor import Monitor

STATE_SECONDS = 10.0
POLL_SECONDS = 0.1
DRAIN_SECONDS = 150.0
ENDING_PART = 0.4
"""Of the time, in which the proxy is ended and started again; the rest is for the memory of one life."""


@dataclass(frozen=True)
class Plan:
    """`rate` in exchanges a second; `on_disk_within` in seconds, more than promised where the machine is too busy."""

    seconds: float
    seed: int
    rate: float
    on_disk_within: float = judgement.ON_DISK_WITHIN

    @property
    def pace(self) -> float:
        """Faults and the time between them are shorter in a run of less than a minute."""
        return min(1.0, max(0.1, self.seconds / 60))


class Soak:
    """One run, its files in `folder`. `run` returns what does not hold.

    Set `interrupted`, also from a signal's handler, to have it end what it started and judge nothing.
    """

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._folder = folder
        self.journal = Journal(folder / "journal.txt", say)
        self.interrupted = False
        self._faulty = threading.Event()

    def run(self) -> list[str]:
        plan, journal = self._plan, self.journal
        ending_seconds = plan.seconds * ENDING_PART
        with ExitStack() as stack:
            self.collector = stack.enter_context(self._child("tests.soak.collector"))
            self.upstream = stack.enter_context(self._child("tests.soak.upstream"))
            self.lives = Lives(self._folder / "proxy", self.upstream.url, self.collector.url, journal)
            stack.callback(self.lives.close)
            self.load = Load(plan.seed, plan.rate, self.lives.port)
            self.audit = Audit(self._folder, self.collector, self.load, self.lives, journal, plan.on_disk_within)
            self.monitor = Monitor(self.lives, journal)
            self.collector_track = CollectorTrack(plan.seed, plan.pace, ending_seconds, self.collector, journal)
            proxy_track = ProxyTrack(
                plan.seed,
                plan.pace,
                ending_seconds,
                self.lives,
                self.collector_track,
                self.monitor,
                self.audit,
                journal,
            )
            proxy_track.start_life()
            with self._thread(self.monitor.run):
                with self.load, self._thread(self.collector_track.run), self._thread(proxy_track.run):
                    self._wait(plan.seconds)
                self._drain()
            if not self.interrupted:
                self._finish()
        return journal.reasons()

    def _child(self, module: str) -> Child:
        child = Child(module, str(self._plan.seed), folder=self._folder)
        self.journal.note(f"{module}, process {child.process.pid}")
        return child

    @contextmanager
    def _thread(self, run: Callable[[threading.Event], None]) -> Iterator[None]:
        """`run` in a thread until the block ends; what it raises is a finding and ends the soak."""
        ending = threading.Event()

        def guarded() -> None:
            try:
                run(ending)
            except BaseException as error:  # noqa: BLE001 - told, and the run ends
                self.journal.note(traceback.format_exc())
                self.journal.found("the soak itself", f"{type(error).__name__}: {str(error)[-1500:]}")
                self._faulty.set()

        thread = threading.Thread(target=guarded)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def _wait(self, seconds: float) -> None:
        now = time.monotonic()
        end, say_at = now + seconds, now + STATE_SECONDS
        while not self.interrupted and (left := end - time.monotonic()) > 0:
            if self._faulty.wait(min(POLL_SECONDS, left)):
                return
            if time.monotonic() >= say_at:
                say_at += STATE_SECONDS
                self._say(self._state())

    def _state(self) -> str:
        life, counts = self.lives.current, "the proxy is down"
        if life is not None and (status := life.status):
            waiting, dropped = sum(status["waiting"].values()), sum(status["dropped"].values())
            counts = f"life {life.number}: captured {status['captured']}, delivered {status['delivered']}, "
            counts += f"waiting {waiting}, dropped {dropped}"
            counts += f", {life.samples[-1][1]:.0f} MB, {life.files} files" if life.samples else ""
        answered = len(self.load.latencies)
        return f"{self.journal.elapsed():4.0f} s: {answered} exchanges; {counts}; collector: {self.collector_track.now}"

    def _drain(self) -> None:
        """Without faults and traffic, all that waits is delivered."""
        if self._faulty.is_set():
            return
        deadline = time.monotonic() + DRAIN_SECONDS
        while not self.interrupted and self._is_waiting(status := self.monitor.read()):
            if time.monotonic() > deadline:
                self.journal.found("drain", f"not delivered {DRAIN_SECONDS:.0f} s after the last fault: {status}")
                return
            time.sleep(POLL_SECONDS)

    def _is_waiting(self, status: Mapping[str, Any]) -> bool:
        life = self.lives.current
        return not status or life is None or life.unopened > 0 or sum(status["waiting"].values()) > 0

    def _finish(self) -> None:
        if self.lives.current is not None:
            self.audit.after(self.lives.end("terminate"))
            self.audit.finish(self.collector_track.stopped)
        quiet = self._plan.seconds * (1 - ENDING_PART)
        if fault := judgement.unjudged([life.samples for life in self.lives.all], quiet):
            self.journal.found("memory", fault)
        for child in (self.collector, self.upstream):
            if "Traceback" in child.said:
                self.journal.found("the soak itself", child.said[-1500:])
        self._sum_up()

    def _sum_up(self) -> None:
        say, lives, load = self._say, self.lives.all, self.load
        totals = self.audit.update()
        drops: dict[str, int] = {}
        for life in lives:
            for cause, count in life.drops().items():
                drops[cause] = drops.get(cause, 0) + count
        say(f"faults: {', '.join(f'{name} {count}' for name, count in sorted(self.journal.done.items()))}")
        say(
            f"events: {len(load.seen)} seen, {totals['unique']} at the collector, sent {totals['arrivals']} times in "
            f"{totals['requests']} requests, dropped {drops or 'none'}"
        )
        for life in lives:
            if (line := judgement.memory_fit(life.samples)) is not None:
                note = "" if judgement.is_judged(line) else ", too short to be judged"
                say(f"memory of life {life.number}: {line}{note}")
        most = max((size for life in lives for _, size in life.samples), default=0.0)
        late = [1000 * judgement.quantile(load.latencies, part) for part in (0.5, 0.99, 1.0)]
        say(f"{len(lives)} lives, at most {most:.0f} MB and {max(life.files for life in lives)} files; ")
        say(f"latency: median {late[0]:.1f} ms, p99 {late[1]:.1f} ms, longest {late[2]:.0f} ms")
