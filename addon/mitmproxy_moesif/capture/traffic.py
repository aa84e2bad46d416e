"""What passes, captured or not: by instance and status, how long it takes and waits, and what fails at upstreams."""

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
"""What upstreams fail of."""

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Of the durations of requests, in seconds."""

ADDED_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Of the waits for the event loop, in seconds."""


class Durations(TypedDict):
    """Seconds in all, and how many were no longer than each bound; `+Inf` is all of them."""

    sum: float
    buckets: Mapping[str, int]


class TrafficStatus(TypedDict):
    """Since the start. `requests` by instance and class of status; upgraded connections have no duration.

    `added`: how long a step of an exchange waited for the proxy, or would have, as `capture/delay.py` measures it.
    """

    requests: Mapping[str, Mapping[str, int]]
    blocked: int
    upstream_failures: Mapping[str, int]
    seconds: Durations
    added: Durations


class Histogram:
    """Durations, counted by the smallest of the bounds that they do not exceed."""

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
    """Counts of one proxy. Written by the event loop's thread, read by any."""

    def __init__(self) -> None:
        self._requests: dict[str, list[int]] = {}
        self._blocked = 0
        self._failures: Counter[str] = Counter()
        self._seconds, self._added = Histogram(BOUNDS), Histogram(ADDED_BOUNDS)

    def expect(self, instances: Iterable[str]) -> None:
        """Their counts are shown from now on, though nothing has come for them yet."""
        for name in instances:
            self._requests.setdefault(name, [0] * len(STATUSES))

    def count(self, instance: str, status: int | None, seconds: float, *, blocked: bool) -> None:
        """`status` is what the client saw, None without an answer."""
        counts = self._requests.get(instance) or self._requests.setdefault(instance, [0] * len(STATUSES))
        counts[min(max((status or 0) // 100, 0), 5)] += 1
        self._blocked += blocked
        if status != 101:
            self._seconds.count(seconds)

    def waited(self, seconds: float) -> None:
        """What was due waited so long for the event loop."""
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
    """Readings of several proxies added up."""
    total: dict[str, Any] = {}
    for one in told:
        for name, value in one.items():
            if isinstance(value, Mapping):
                total[name] = together([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total
