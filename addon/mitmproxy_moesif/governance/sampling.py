"""Sampling by Moesif's configuration: the percentage of events to keep, and the weight of each kept event.

Rates are percentages, 0..100. The lowest of the user's, the company's and the first matching `regex_config`'s rate is
used; if none is set, the general `sample_rate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mitmproxy_moesif.config.re2set import PatternError
from mitmproxy_moesif.governance.matching import ConditionIndex, RequestView, TermSet, compile_sets
from mitmproxy_moesif.governance.model import RemoteConfig, SamplingSet


def keep(rate: float, random: float) -> bool:
    """Whether to keep an event, given a `random` number in [0, 1)."""
    return rate > random * 100


def weight(rate: float) -> int:
    """The number of events that a kept one represents: 100 / rate rounded down, or 1 at rate 0."""
    return math.floor(100 / rate) if rate > 0 else 1


class SamplingRates:
    """The rates of one configuration. `warnings` has one line for each unusable entry."""

    def __init__(self, config: RemoteConfig) -> None:
        self._config = config
        rates: list[float] = []
        sets: list[Sequence[TermSet]] = []
        warnings: list[str] = []
        for number, entry in enumerate(config.regex_config):
            try:
                compiled, rate = _usable(entry)
                sets.append(compiled)
                rates.append(rate)
            except (PatternError, ValueError) as e:
                warnings.append(f"regex_config[{number}] of the sampling is disabled: {e}")
        self._rates = tuple(rates)
        self._index = ConditionIndex(sets)
        self.warnings = tuple(warnings)

    def rate(self, view: RequestView, status: int | None, user_id: str | None, company_id: str | None) -> float:
        """The rate for one exchange; `status` is the response's, None without a response."""
        rates = (
            self._config.user_sample_rate.get(user_id) if user_id else None,
            self._config.company_sample_rate.get(company_id) if company_id else None,
            self._by_conditions(view, status) if self._rates else None,
        )
        return min((rate for rate in rates if rate is not None), default=self._config.sample_rate)

    def _by_conditions(self, view: RequestView, status: int | None) -> float | None:
        matched, undecided = self._index.evaluate(view, status)
        first = min(matched, default=len(self._rates))
        ahead = [held for held in undecided if held.owners[0] < first]
        if ahead:
            first = min((first, *self._index.decide_by_body(ahead, view.body())))
        return self._rates[first] if first < len(self._rates) else None


def _usable(entry: SamplingSet) -> tuple[Sequence[TermSet], float]:
    sets, unknown = compile_sets([entry], with_status=True)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a field of a request or response")
    if entry.sample_rate is None:
        raise ValueError("it has no sample_rate")
    return sets, entry.sample_rate
