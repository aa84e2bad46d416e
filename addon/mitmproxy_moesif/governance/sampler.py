"""Decides which events are kept, and their weight, by the operator's rate, else the account's configuration."""

from __future__ import annotations

import random
from collections.abc import Callable

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import Attributes, request_attributes
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.governance.sampling import keep, weight
from mitmproxy_moesif.governance.snapshot import Snapshot


class Sampler:
    """Samples by the configuration of an account. `snapshot` returns that by the account's name."""

    def __init__(self, snapshot: Callable[[str], Snapshot]) -> None:
        self._snapshot = snapshot
        self._random = random.Random()  # noqa: S311 - for sampling, not for secrets

    def __call__(self, instance: Instance, exchange: Exchange, facts: Attributes) -> int | None:
        """The weight of this exchange's event; None if it is not sampled."""
        rate = self.rate(instance, exchange, facts)
        if rate >= 100:
            return 1
        return weight(rate) if keep(rate, self._random.random()) else None

    def rate(self, instance: Instance, exchange: Exchange, facts: Attributes) -> float:
        """The percentage of such exchanges to keep."""
        if instance.settings.sample_rate is not None:
            return instance.settings.sample_rate
        view = request_attributes(exchange, facts, instance.policy.request.body.limit)
        caller, snapshot = facts.caller, self._snapshot(instance.account)
        return snapshot.sample_rate(view, exchange.status, caller.user_id, caller.company_id)
