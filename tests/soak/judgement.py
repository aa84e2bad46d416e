"""What has to hold, as pure functions: each returns what is wrong in one line, or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

ON_DISK_WITHIN = 0.1
"""Seconds after its answer was read at which an event survives a kill."""

WARM_UP = 60.0
SHORTEST_FIT = 30.0
SHORTEST_JUDGED = 180.0
"""Seconds of a life after its warm-up: for a slope to be told, and to tell something."""
WINDOW = 20.0
"""Seconds: longer than what an outage leaves in memory, so that each has a moment without any."""
MAX_SLOPE = 2.0
"""MB a minute."""
MAX_MEMORY = 300.0
"""MB."""
MAX_FILES = 200
COUNTED = frozenset({"refused", "queue_full", "queue_bytes", "spool_full", "shutdown"})
"""Causes of drops that the soak may bring about; any other is a fault."""

REFUSED = re.compile(r"the receiver refused event (\S+) \(status (\d{3})(?:: .*)?\)$", re.MULTILINE)
SUSPICIOUS = re.compile(r"Traceback|unexpected|a fault in|could not be built|is damaged|cannot be read", re.IGNORECASE)

Span = tuple[float, float]


def identity_fault(status: Mapping[str, Any]) -> str | None:
    """captured = delivered + waiting + dropped, and no number below zero."""
    waiting, dropped = status["waiting"], sum(status["dropped"].values())
    total = status["delivered"] + sum(waiting.values()) + dropped
    numbers = {name: status[name] for name in ("captured", "delivered", "waiting", "dropped")}
    if status["captured"] != total:
        return f"captured is not delivered + waiting + dropped: {numbers}"
    if min(status["delivered"], dropped, *waiting.values()) < 0:
        return f"a number below zero: {numbers}"
    return None


def drop_fault(status: Mapping[str, Any]) -> str | None:
    odd = {cause: count for cause, count in status["dropped"].items() if cause not in COUNTED}
    return f"drops that nothing here causes: {odd}" if odd else None


def exit_fault(counts: Mapping[str, Any]) -> str | None:
    """The same of the exit line."""
    total = counts["delivered"] + counts["waiting"] + counts["dropped"]
    if counts["captured"] != total or min(counts["delivered"], counts["waiting"], counts["dropped"]) < 0:
        return f"captured is not delivered + waiting + dropped: {dict(counts)}"
    return drop_fault({"dropped": counts["causes"]})


def safe_ids(seen: Mapping[str, float], killed: float, within: float = ON_DISK_WITHIN) -> set[str]:
    """Those whose answer was read early enough before a kill."""
    return {one for one, at in seen.items() if at < killed - within}


def spool_fault(waiting: int, spooled: Collection[str], settled: Collection[str]) -> str | None:
    """What an ended proxy says is waiting is on disk.

    A chunk stays whole on disk until all of its events are settled, so there may be more on disk than waits; but no
    more that neither arrived nor was refused (`settled`) than waits: an answer may have been lost.
    """
    on_disk = set(spooled)
    if len(on_disk) != len(spooled):
        return f"{len(spooled) - len(on_disk)} events are in the spool twice"
    unsettled = on_disk.difference(settled)
    if not len(unsettled) <= waiting <= len(on_disk):
        return f"{waiting} are said to wait; in the spool are {len(on_disk)}, {len(unsettled)} of them not settled"
    return None


def told_twice(
    again: Iterable[tuple[str, float, float]], lives: Sequence[Span], excused: Sequence[Span]
) -> list[tuple[str, float, float]]:
    """Events sent again by the same life of the proxy although the collector's 2xx had reached it.

    `excused` are times at which nobody can say what reached the proxy, since the collector was stopped.
    """
    return [
        (one, first, second)
        for one, first, second in again
        if any(start <= first and second <= end for start, end in lives)
        and not any(start <= at <= end for start, end in excused for at in (first, second))
    ]


def outside(times: Iterable[float], spans: Sequence[Span]) -> list[float]:
    return [at for at in times if not any(start <= at <= end for start, end in spans)]


def outside_by_name(times: Mapping[str, float], spans: Sequence[Span]) -> set[str]:
    """The names of those."""
    return {name for name, at in times.items() if outside([at], spans)}


@dataclass(frozen=True, slots=True)
class Fit:
    """A line through (seconds, MB): `slope` in MB a minute, `error` its standard error, `span` in seconds."""

    slope: float
    error: float
    span: float

    def __str__(self) -> str:
        return f"{self.slope:+.2f} ± {self.error:.2f} MB/min over {self.span:.0f} s"


def fit(points: Sequence[tuple[float, float]]) -> Fit | None:
    """Least squares; None for fewer than three points."""
    if len(points) < 3:
        return None
    x0, y0 = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((x - x0) ** 2 for x, _ in points)
    slope = sum((x - x0) * (y - y0) for x, y in points) / spread
    rest = sum((y - y0 - slope * (x - x0)) ** 2 for x, y in points)
    error = math.sqrt(rest / (len(points) - 2) / spread)
    return Fit(slope * 60, error * 60, points[-1][0] - points[0][0])


def memory_fit(samples: Sequence[tuple[float, float]]) -> Fit | None:
    """The slope of one life's memory after its warm-up; None for a life too short to tell.

    Of each window the smallest value: what comes and goes with a batch or a backlog is no leak.
    """
    if not samples:
        return None
    begin, end = samples[0][0] + WARM_UP, samples[-1][0]
    windows: dict[int, tuple[float, float]] = {}
    for at, size in samples:
        number = int((at - begin) // WINDOW)
        whole = at >= begin and begin + (number + 1) * WINDOW <= end + WINDOW / 10
        if whole and (number not in windows or size < windows[number][1]):
            windows[number] = (at, size)
    found = fit([windows[number] for number in sorted(windows)])
    return found if found is not None and found.span >= SHORTEST_FIT else None


def memory_fault(samples: Sequence[tuple[float, float]]) -> str | None:
    """Too much, or more and more: a slope that is above the bound by more than chance explains."""
    most = max((size for _, size in samples), default=0.0)
    if most > MAX_MEMORY:
        return f"{most:.0f} MB are resident, more than {MAX_MEMORY:.0f}"
    line = memory_fit(samples)
    if line is not None and is_judged(line) and line.slope - 2 * line.error > MAX_SLOPE:
        return f"memory grows by {line}, more than {MAX_SLOPE:.0f}"
    return None


def is_judged(line: Fit) -> bool:
    """Whether it is long enough for its slope to be believed."""
    return line.span >= SHORTEST_JUDGED


def unjudged(lives: Iterable[Sequence[tuple[float, float]]], quiet: float) -> str | None:
    """With so many seconds left to the last life, its memory has to have been judged: silence is no proof."""
    if quiet < WARM_UP + SHORTEST_JUDGED + 2 * WINDOW:
        return None
    lines = [line for line in map(memory_fit, lives) if line is not None]
    return None if any(map(is_judged, lines)) else "no life was measured for long enough to be judged"


def log_faults(output: str, secrets: Iterable[str]) -> list[str]:
    """Lines that must not be in a log, each after the one before it."""
    lines = ["", *output.splitlines()]
    lines = [f"{before} | {line}" for before, line in pairwise(lines) if SUSPICIOUS.search(line)]
    lines += [f"a secret is shown ({secret[:3]}...)" for secret in secrets if secret in output]
    return lines


def refusals(output: str) -> dict[str, int]:
    """The events that a log names as refused, and the status it tells of each."""
    return {one: int(status) for one, status in REFUSED.findall(output)}


def quantile(values: Iterable[float], part: float, empty: Callable[[], float] = lambda: 0.0) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else empty()
