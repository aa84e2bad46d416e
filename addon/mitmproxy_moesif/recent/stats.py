"""Statistics of exchanges. Counts are weighted: an exchange of weight 10 counts as ten."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Final

from mitmproxy_moesif.event.build import iso_time
from mitmproxy_moesif.recent.api import Interval, Route, Row, Share, Stats
from mitmproxy_moesif.recent.terms import WAITING

MOST_INTERVALS: Final = 60
LENGTHS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400)
"""Possible lengths of an interval in seconds; the shortest with at most `MOST_INTERVALS` is used."""

TOP: Final = 10


def add_up(rows: Sequence[Row]) -> Stats:
    times = [datetime.fromisoformat(row["time"]).timestamp() for row in rows]
    seconds = _length(times)
    return Stats(
        exchanges=len(rows),
        count=sum(row["weight"] for row in rows),
        errors=_errors(rows),
        seconds=seconds,
        over_time=_over_time(rows, times, seconds),
        routes=_routes(rows),
        statuses=_shares((_status_class(row["status"]), row["weight"]) for row in rows),
        states=_shares((row["state"], row["weight"]) for row in rows),
        users=_shares((row["user"], row["weight"]) for row in rows if row["user"] is not None),
        companies=_shares((row["company"], row["weight"]) for row in rows if row["company"] is not None),
    )


def _length(times: Sequence[float]) -> int:
    span = max(times) - min(times) if times else 0.0
    return next((length for length in LENGTHS if span / length < MOST_INTERVALS), LENGTHS[-1])


def _over_time(rows: Sequence[Row], times: Sequence[float], seconds: int) -> list[Interval]:
    """The newest intervals, including empty ones."""
    by_start: dict[int, list[Row]] = {}
    for row, at in zip(rows, times, strict=True):
        by_start.setdefault(int(at) // seconds * seconds, []).append(row)
    if not by_start:
        return []
    last = max(by_start)
    first = max(min(by_start), last - MOST_INTERVALS * seconds)
    return [_interval(start, by_start.get(start, [])) for start in range(first, last + 1, seconds)]


def _interval(start: int, rows: Sequence[Row]) -> Interval:
    states: Counter[str] = Counter()
    for row in rows:
        states["waiting" if row["state"] in WAITING else row["state"]] += row["weight"]
    return Interval(
        time=f"{iso_time(start)}Z",
        count=states.total(),
        errors=_errors(rows),
        waiting=states["waiting"],
        sent=states["sent"],
        dropped=states["dropped"] + states["refused"],
    )


def _errors(rows: Iterable[Row]) -> int:
    return sum(row["weight"] for row in rows if row["status"] is not None and row["status"] >= 500)


def _routes(rows: Sequence[Row]) -> list[Route]:
    by_route: dict[str, list[Row]] = {}
    for row in rows:
        by_route.setdefault(row["route"] or f"{row['method']} {row['path'].partition('?')[0]}", []).append(row)
    counted = [(sum(row["weight"] for row in group), route, group) for route, group in by_route.items()]
    counted.sort(key=lambda each: (-each[0], each[1]))
    return [_route(route, count, group) for count, route, group in counted[:TOP]]


def _route(route: str, count: int, rows: Sequence[Row]) -> Route:
    timed = sorted((row["ms"], row["weight"]) for row in rows if row["ms"] is not None)
    return Route(
        route=route,
        count=count,
        errors=_errors(rows),
        p50=percentile(timed, 50),
        p95=percentile(timed, 95),
        p99=percentile(timed, 99),
    )


def percentile(timed: Sequence[tuple[float, int]], percent: int) -> float | None:
    """The weighted percentile of (value, weight) pairs sorted by value; None if there are none."""
    if not timed:
        return None
    sums = list(accumulate(weight for _, weight in timed))
    return timed[min(bisect_left(sums, sums[-1] * percent / 100), len(timed) - 1)][0]


def _status_class(status: int | None) -> str:
    return "none" if status is None else f"{status // 100}xx"


def _shares(weighed: Iterable[tuple[str, int]]) -> list[Share]:
    counts: Counter[str] = Counter()
    for name, weight in weighed:
        counts[name] += weight
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return [Share(name=name, count=count) for name, count in ordered[:TOP]]
