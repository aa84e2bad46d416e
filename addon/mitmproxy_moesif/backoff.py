"""Exponential backoff with jitter."""

from __future__ import annotations

import random


class Backoff:
    """Pauses double with each failure, from `first` up to `longest` seconds.

    A random 50 to 100 % of each pause is used, so that many proxies do not retry at the same time.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0
        self._jitter = random.Random()  # noqa: S311 - spreads retries, no secret

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        pause: float = min(self._longest, self._first * 2 ** min(self._failures, 20))
        self._failures += 1
        return pause * self._jitter.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start over: the next failure counts as the first."""
        self._failures = 0
