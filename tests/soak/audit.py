"""Who has which event: at the collector, in the spool, or counted as dropped."""

from __future__ import annotations

import json
from pathlib import Path

from tests.soak import judgement
from tests.soak.bodies import MASKED
from tests.soak.children import Child, Command
from tests.soak.journal import Journal
from tests.soak.judgement import Span
from tests.soak.lives import Life, Lives
from tests.soak.load import Load
from tests.support import APPLICATION_ID
from tests.support.addon import exit_counts

NOTICED_WITHIN = 1.0
"""Seconds after the proxy listens again in which a client may notice that its connection had ended."""


class Audit:
    """Asked after each end of a life, while no proxy runs, and once more at the end of all.

    `on_disk_within` are the seconds after its answer was read at which an event has to survive a kill.
    """

    def __init__(
        self,
        folder: Path,
        collector: Child,
        load: Load,
        lives: Lives,
        journal: Journal,
        on_disk_within: float = judgement.ON_DISK_WITHIN,
    ) -> None:
        self.accepted: set[str] = set()
        self.named: set[str] = set()  # by a log, as refused
        self._refusable: dict[str, int] = {}
        self._again: list[tuple[str, float, float]] = []
        self._lost: set[str] = set()
        self._on_disk_within = on_disk_within
        self._report = folder / "report.json"
        self._collector = collector
        self._load = load
        self._lives = lives
        self._journal = journal

    def update(self) -> Command:
        """Takes in what came to the collector since the last time; its totals."""
        totals = self._collector.ask("report", to=str(self._report))
        report = json.loads(self._report.read_text())
        self.accepted.update(report["fresh"])
        self._refusable.update(report["refused"])
        self._again += [(one, first, second) for one, first, second in report["again"]]
        for fault in report["faults"]:
            self._journal.found("request", fault)
        for one in report["changed"]:
            self._journal.found("content", f"event {one} came again with another content")
        if totals["leaks"]:
            self._journal.found("mask", f"{totals['leaks']} requests hold what was to be masked")
        return totals

    def after(self, life: Life) -> None:
        self.update()
        output = life.proxy.output
        for line in judgement.log_faults(output, (APPLICATION_ID, MASKED)):
            self._journal.found("log", f"life {life.number}: {line}")
        refusals = judgement.refusals(output)
        self.named |= refusals.keys()
        if odd := {one: status for one, status in refusals.items() if self._refusable.get(one) != status}:
            self._journal.found("refused", f"dropped as refused, and not so refused by the collector: {odd}")
        if fault := judgement.memory_fault(life.samples):
            self._journal.found("memory", f"life {life.number}: {fault}")
        spooled = self._lives.spooled()
        if life.how == "terminate":
            self._judge_exit(life, spooled)
        seen = dict(self._load.seen)
        kill = life.how == "kill"
        safe = judgement.safe_ids(seen, life.ended, self._on_disk_within) if kill else set(seen)
        self._judge_missing(life, safe, spooled)

    def _judge_exit(self, life: Life, spooled: list[str]) -> None:
        counts = exit_counts(life.proxy.output)
        self._journal.note(f"exit line of life {life.number}: {counts}, {len(spooled)} in the spool")
        if fault := judgement.exit_fault(counts):
            self._journal.found("exit line", f"life {life.number}: {fault}")
        waiting = counts["waiting"] + life.unopened
        if fault := judgement.spool_fault(waiting, spooled, self.accepted | self.named):
            self._journal.found("spool", f"life {life.number}: {fault}")

    def _judge_missing(self, life: Life, safe: set[str], spooled: list[str]) -> None:
        """What the clients saw has to be somewhere, or counted as dropped for another cause than refused."""
        seen, kills = self._load.seen, self._killed()
        missing = safe.difference(self.accepted, spooled, self.named, self._lost)
        missing = judgement.outside_by_name({one: seen[one] for one in missing}, kills)
        self._lost |= missing
        counted = sum(count for one in self._lives.all for cause, count in one.drops().items() if cause != "refused")
        self._journal.note(
            f"after life {life.number}: {len(safe)} seen, {len(self.accepted)} at the collector, "
            f"{len(spooled)} in the spool, {len(missing)} missing, {counted} counted as dropped"
        )
        if missing and len(self._lost) > counted:
            when = sorted((seen[one], one) for one in missing)
            told = ", ".join(f"{one} read {life.ended - at:.3f} s before the end" for at, one in when[-5:])
            end = f"{life.how} at {self._journal.elapsed(life.ended):.1f} s"
            text = f"{len(missing)} events are nowhere, {counted} are counted as dropped: {told}"
            self._journal.found("lost", f"life {life.number} ({end}): {text}")

    def _killed(self) -> list[Span]:
        """The times at which an answer may have been read whose event was not on disk yet."""
        listening = dict(self._lives.down)
        return [
            (life.ended - self._on_disk_within, listening.get(life.ended, float("inf")))
            for life in self._lives.all
            if life.how == "kill"
        ]

    def finish(self, excused: list[Span]) -> None:
        """After the last life, when all faults are over."""
        down = [(start, end + NOTICED_WITHIN) for start, end in self._lives.down]
        spans = [(life.began, life.ended) for life in self._lives.all]
        found, load, elapsed = self._journal.found, self._load, self._journal.elapsed
        for one, first, second in judgement.told_twice(self._again, spans, excused):
            found(
                "twice", f"event {one} was accepted at {elapsed(first):.3f} s and sent again at {elapsed(second):.3f} s"
            )
        if accepted := load.spoiled & self.accepted:
            found("the soak itself", f"the collector took what it has to refuse: {sorted(accepted)[:5]}")
        for text in load.odd:
            found("traffic", f"not what the upstream answered: {text}")
        for at in judgement.outside(load.breaks, down):
            found("traffic", f"a connection broke at {elapsed(at):.1f} s, with the proxy running")
        for at in judgement.outside(load.unnamed, down):
            found("traffic", f"an answer without transaction id at {elapsed(at):.1f} s")
        for name in self._lives.damaged():
            found("damaged", f"a spool file was set aside: {name}")
        if left := self._lives.spooled():
            found("spool", f"{len(left)} events are still in the spool at the end")
