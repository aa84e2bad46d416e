"""One state of Moesif's configuration, of its rules and of the local ones, ready to decide requests.

A snapshot never changes; another state is another snapshot, and whoever holds the current one swaps it. Building one
compiles every pattern, which takes some 50 ms for 1,000 rules: build it off the request path. Everything else here is
for the request path: it neither waits nor reads anything but its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from mitmproxy_moesif.governance.matching import ConditionIndex, HeldSet, RequestView
from mitmproxy_moesif.governance.model import Cohorts, RemoteConfig, RuleSet
from mitmproxy_moesif.governance.rules import (
    PASS,
    ActiveRule,
    Caller,
    Decision,
    TagValues,
    activate,
    decision,
    in_cohorts,
)
from mitmproxy_moesif.governance.sampling import SamplingRates


class RuleBook:
    """The rules of both sources, compiled: the local ones first, each source's in the order in which they apply."""

    def __init__(self, remote: RuleSet, local: RuleSet) -> None:
        self.remote = remote
        self.local = local
        local_rules, local_warnings = activate(local)
        remote_rules, remote_warnings = activate(remote)
        self.active: Sequence[ActiveRule] = (*local_rules, *remote_rules)
        self.warnings = (*local_warnings, *remote_warnings)
        self.index = ConditionIndex([rule.sets for rule in self.active])
        self.ask_who_calls = any(rule.kind != "regex" for rule in self.active)

    def is_of(self, remote: RuleSet, local: RuleSet) -> bool:
        """Whether it was compiled from the same rules. Cheap: those that are the same objects are not looked into."""
        return self.remote == remote and self.local == local


class Snapshot:
    """Decides requests and sampling. `warnings` has one line for each rule or sampling entry that is at fault.

    `previous` saves compiling rules again that have not changed: the cohorts in the configuration change far more
    often than the rules.
    """

    def __init__(
        self,
        config: RemoteConfig | None = None,
        remote_rules: RuleSet | None = None,
        local_rules: RuleSet | None = None,
        previous: Snapshot | None = None,
    ) -> None:
        self.config = config or RemoteConfig()
        remote, local = remote_rules or RuleSet(), local_rules or RuleSet()
        unchanged = previous is not None and previous.rules.is_of(remote, local)
        self.rules: RuleBook = previous.rules if previous and unchanged else RuleBook(remote, local)
        self._sampler = SamplingRates(self.config)
        self.warnings = (*self.rules.warnings, *self._sampler.warnings)

    def needs_body(self, view: RequestView, user_id: str | None, company_id: str | None) -> bool:
        """Whether the body decides about some rule for this request. Does not ask the view for the body."""
        if not self.rules.active:
            return False
        matched, undecided = self.rules.index.evaluate(view)
        if not undecided:
            return False
        return next(self._open(undecided, matched, self._caller(user_id, company_id)), None) is not None

    def decide(self, view: RequestView, user_id: str | None, company_id: str | None) -> Decision:
        """What the rules say. Asks the view for its body only where `needs_body` is true."""
        rules, index = self.rules.active, self.rules.index
        if not rules:
            return PASS
        matched, undecided = index.evaluate(view)
        if not matched and not undecided:
            return PASS
        caller = self._caller(user_id, company_id)
        if waiting := list(self._open(undecided, matched, caller)):
            matched |= index.decide_by_body(waiting, view.body())
        return decision([rules[n] for n in sorted(matched) if rules[n].concerns(caller)], caller)

    def sample_rate(self, view: RequestView, status: int | None, user_id: str | None, company_id: str | None) -> float:
        """The rate, per cent, at which events like this one are kept."""
        return self._sampler.rate(view, status, user_id, company_id)

    def _open(self, undecided: Iterable[HeldSet], matched: Set[int], caller: Caller) -> Iterator[HeldSet]:
        """The sets that some rule for this caller waits for."""
        rules = self.rules.active
        for held in undecided:
            for number in held.owners:
                if number not in matched and rules[number].concerns(caller):
                    yield held
                    break

    def _caller(self, user_id: str | None, company_id: str | None) -> Caller:
        """Local cohorts stand before the remote ones: where both name a rule, the local values count."""

        def cohorts(of_local: Cohorts, of_remote: Cohorts, name: str) -> dict[str, TagValues]:
            return in_cohorts((*of_local.get(name, ()), *of_remote.get(name, ())))

        local = self.rules.local
        return Caller(
            cohorts(local.user_rules, self.config.user_rules, user_id) if user_id else None,
            cohorts(local.company_rules, self.config.company_rules, company_id) if company_id else None,
        )
