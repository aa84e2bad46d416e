"""Growing, jittered pauses between attempts at something that fails."""

from __future__ import annotations

import random


class Backoff:
    """Pauses double with each failure, from `first` up to `longest` seconds.

    Each is between half and all of that, so that many proxies spread out.
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
        """It works again: the next failure is the first."""
        self._failures = 0
