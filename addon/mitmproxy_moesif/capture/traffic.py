"""Counts of all traffic, captured or not: by instance and status, durations, event loop lag, upstream failures."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Any, TypedDict

STATUSES = ("unanswered", "1xx", "2xx", "3xx", "4xx", "5xx")

TROUBLES = MappingProxyType(
    {
        "refused": "the connection is refused",
        "dns": "its name is not found",
        "timed_out": "the connection times out",
        "unreachable": "there is no route to it",
        "tls": "TLS fails",
        "closed": "it closes the connection before it answers",
        "cut": "its answer breaks off",
        "protocol": "its answer cannot be passed on",
        "other": "it cannot be used",
    }
)
"""The kinds of upstream failures, with a description."""

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Histogram bounds for request durations, in seconds."""

ADDED_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Histogram bounds for event loop lag, in seconds."""


class Durations(TypedDict):
    """The sum in seconds, and how many durations were at most each bound; `+Inf` counts all of them."""

    sum: float
    buckets: Mapping[str, int]


class TrafficStatus(TypedDict):
    """Counts since the start. `requests` is by instance and status class; upgraded connections have no duration.

    `added` is the event loop lag that `capture/delay.py` measures.
    """

    requests: Mapping[str, Mapping[str, int]]
    blocked: int
    upstream_failures: Mapping[str, int]
    seconds: Durations
    added: Durations


class Histogram:
    """A histogram of durations: each is counted under the smallest bound that it does not exceed."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._seconds = 0.0
        self._buckets = [0] * (len(bounds) + 1)

    def count(self, seconds: float) -> None:
        self._seconds += seconds
        self._buckets[bisect_left(self._bounds, seconds)] += 1

    def reading(self) -> Durations:
        buckets = dict(zip((*map(str, self._bounds), "+Inf"), accumulate(self._buckets), strict=True))
        return Durations(sum=round(self._seconds, 6), buckets=buckets)


class Traffic:
    """The counts of one proxy. Written on the event loop's thread, readable from any thread."""

    def __init__(self) -> None:
        self._requests: dict[str, list[int]] = {}
        self._blocked = 0
        self._failures: Counter[str] = Counter()
        self._seconds, self._added = Histogram(BOUNDS), Histogram(ADDED_BOUNDS)

    def expect(self, instances: Iterable[str]) -> None:
        """Show counts for these instances from now on, even if they are zero."""
        for name in instances:
            self._requests.setdefault(name, [0] * len(STATUSES))

    def count(self, instance: str, status: int | None, seconds: float, *, blocked: bool) -> None:
        """`status` is what the client saw; None without a response. `seconds` is the duration."""
        counts = self._requests.get(instance) or self._requests.setdefault(instance, [0] * len(STATUSES))
        counts[min(max((status or 0) // 100, 0), 5)] += 1
        self._blocked += blocked
        if status != 101:
            self._seconds.count(seconds)

    def waited(self, seconds: float) -> None:
        """Count one measurement of event loop lag."""
        self._added.count(seconds)

    def failed(self, trouble: str) -> None:
        self._failures[trouble] += 1

    def reading(self) -> TrafficStatus:
        return TrafficStatus(
            requests={name: dict(zip(STATUSES, counts, strict=True)) for name, counts in [*self._requests.items()]},
            blocked=self._blocked,
            upstream_failures={trouble: self._failures[trouble] for trouble in TROUBLES},
            seconds=self._seconds.reading(),
            added=self._added.reading(),
        )


def together(told: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several proxies' readings."""
    total: dict[str, Any] = {}
    for one in told:
        for name, value in one.items():
            if isinstance(value, Mapping):
                total[name] = together([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total
