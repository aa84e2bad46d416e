"""Ratios and differences of pairs, with their spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the smallest and largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} [{self.low:.{digits}f} - {self.high:.{digits}f}]"


def paired(first: Sequence[float], second: Sequence[float], how: Callable[[float, float], float]) -> Spread:
    """`how` of the two values of each round."""
    return Spread.of([how(a, b) for a, b in zip(first, second, strict=True)])


def ratio(first: Sequence[float], second: Sequence[float]) -> Spread:
    return paired(first, second, lambda a, b: a / b)


def difference(first: Sequence[float], second: Sequence[float]) -> Spread:
    return paired(first, second, lambda a, b: a - b)


def percentile(values: Sequence[float], quantile: float) -> float:
    """The nearest-rank percentile; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * quantile / 100))]
