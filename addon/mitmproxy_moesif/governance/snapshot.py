"""Moesif's configuration and rules and the local rules at one moment, ready to decide requests.

A snapshot is immutable; each change makes a new one, and the holder swaps it. Making one compiles every pattern, which
takes some 50 ms for 1,000 rules, so do it off the request path. All else here is for the request path: it does not
block, and reads only its arguments.
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
    """The compiled rules of both sources: first the local ones, then Moesif's, each in order of application."""

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
        """Whether it was compiled from equal rules. Cheap, since identical objects are not compared in depth."""
        return self.remote == remote and self.local == local


class Snapshot:
    """Decides requests and sampling. `warnings` has one line for each faulty rule or sampling entry.

    Unchanged rules are taken from `previous` without compiling them again: the configuration's cohorts change far more
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
        """Whether the body decides about some rule for this request. Does not read the body from the view."""
        if not self.rules.active:
            return False
        matched, undecided = self.rules.index.evaluate(view)
        if not undecided:
            return False
        return next(self._open(undecided, matched, self._caller(user_id, company_id)), None) is not None

    def decide(self, view: RequestView, user_id: str | None, company_id: str | None) -> Decision:
        """The rules' decision. Reads the body from the view only if `needs_body` is true."""
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
        """The percentage of events like this one to keep."""
        return self._sampler.rate(view, status, user_id, company_id)

    def _open(self, undecided: Iterable[HeldSet], matched: Set[int], caller: Caller) -> Iterator[HeldSet]:
        """The sets that are still open and belong to some rule for this caller."""
        rules = self.rules.active
        for held in undecided:
            for number in held.owners:
                if number not in matched and rules[number].concerns(caller):
                    yield held
                    break

    def _caller(self, user_id: str | None, company_id: str | None) -> Caller:
        """The caller's cohorts, local ones first: if both name a rule, the local values are used."""

        def cohorts(of_local: Cohorts, of_remote: Cohorts, name: str) -> dict[str, TagValues]:
            return in_cohorts((*of_local.get(name, ()), *of_remote.get(name, ())))

        local = self.rules.local
        return Caller(
            cohorts(local.user_rules, self.config.user_rules, user_id) if user_id else None,
            cohorts(local.company_rules, self.config.company_rules, company_id) if company_id else None,
        )
