"""Prepares governance rules: the requests that each is for, and its response or headers.

A rule that cannot be applied (no response, an invalid status, a pattern that re2 refuses) is disabled with one warning;
requests pass it, and the other rules still apply. In a local file all rules must be applicable, or it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mitmproxy_moesif.config.fields import HEADER_NAME
from mitmproxy_moesif.config.re2set import PatternError
from mitmproxy_moesif.config.text import quoted
from mitmproxy_moesif.governance.matching import TermSet, compile_sets
from mitmproxy_moesif.governance.model import CohortEntry, GovernanceError, Rule, RuleSet, as_text, one_line
from mitmproxy_moesif.governance.template import Template, header_text, json_escaped

# The proxy computes framing from the body that it sends; the others belong to one connection, not to a response.
CONNECTION_HEADERS = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
BODILESS_STATUSES = frozenset((204, 205, 304))

_ORDER = {("user", False): 0, ("user", True): 1, ("company", False): 2, ("company", True): 3}
_LAST = 4  # regex rules


class RuleError(ValueError):
    """A rule cannot be applied; the text says why."""


class Blocked(NamedTuple):
    """The response that a rule gives in place of the upstream's.

    `headers` has those of all rules that apply, and Content-Type if there is a body, but no framing
    (Content-Length)."""

    rule_id: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Decision(NamedTuple):
    """The rules' decision on a request: a response, or else headers to set on the upstream's response."""

    block: Blocked | None = None
    headers: tuple[tuple[str, str], ...] = ()


PASS = Decision()

type TagValues = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller as seen by rules: the rules whose cohorts the user and the company are in, by id, with the values for
    their tags. None: not identified."""

    user: Mapping[str, TagValues] | None = None
    company: Mapping[str, TagValues] | None = None

    def values(self, rule_id: str) -> TagValues:
        """The values for one rule's tags; the user's override the company's."""
        of_user = (self.user or {}).get(rule_id, {})
        of_company = (self.company or {}).get(rule_id, {})
        return {**of_company, **of_user} if of_company else of_user


def in_cohorts(entries: Iterable[CohortEntry]) -> dict[str, TagValues]:
    """The tag values by rule id; if a rule is listed twice, the first entry is used."""
    found: dict[str, TagValues] = {}
    for entry in entries:
        if entry.rules not in found:
            texts = ((name, as_text(value)) for name, value in entry.values.items())
            found[entry.rules] = {name: text for name, text in texts if text is not None}
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """A rule's response. Only blocking rules have `status` and `body`; `content_type` is the body's."""

    headers: tuple[tuple[str, Template], ...]
    status: int = 0
    body: Template | None = None
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A valid rule, which applies if any of its `sets` of conditions holds."""

    id: str
    kind: str
    block: bool
    in_cohort: bool
    unidentified: bool
    sets: tuple[TermSet, ...]
    answer: Answer

    def concerns(self, caller: Caller) -> bool:
        """Whether the rule is for this caller, regardless of the request."""
        if self.kind == "regex":
            return True
        cohorts = caller.user if self.kind == "user" else caller.company
        if cohorts is None:
            return self.unidentified
        return (self.id in cohorts) == self.in_cohort

    @property
    def order(self) -> int:
        """Its position in the order of kinds of rules."""
        return _ORDER.get((self.kind, self.unidentified), _LAST)


def activate(rule_set: RuleSet) -> tuple[list[ActiveRule], list[str]]:
    """The valid rules in order of application, and one warning for each rule with an error."""
    rules: list[ActiveRule] = []
    warnings: list[str] = []
    for rule, active, faults in _examine(rule_set):
        if active is not None:
            rules.append(active)
        if faults:
            verdict = "is disabled" if active is None else "applies only in part"
            warnings.append(f"rule {_named(rule)} from {one_line(rule_set.source)} {verdict}: {'; '.join(faults)}")
    return sorted(rules, key=lambda rule: rule.order), warnings


def check_rules(rule_set: RuleSet) -> None:
    """Raises `GovernanceError` if a rule cannot be applied, or only in part."""
    for rule, _, faults in _examine(rule_set):
        if faults:
            raise GovernanceError(f"{one_line(rule_set.source)}: rule {_named(rule)}: {'; '.join(faults)}")


def _examine(rule_set: RuleSet) -> Iterator[tuple[Rule, ActiveRule | None, list[str]]]:
    for rule in rule_set.rules:
        faults: list[str] = []
        try:
            active = _active(rule, faults)
        except (RuleError, PatternError) as e:
            yield rule, None, [str(e)]
        else:
            yield rule, active, faults


def _named(rule: Rule) -> str:
    return one_line(f"{rule.id} ({rule.name})" if rule.name else rule.id, 200)


def _active(rule: Rule, faults: list[str]) -> ActiveRule:
    if rule.type not in ("user", "company", "regex"):
        raise RuleError(f"its type is {quoted(rule.type):.50}, not user, company or regex")
    if rule.applied_to not in ("matching", "not_matching"):
        raise RuleError(f"applied_to is {quoted(rule.applied_to):.50}, not matching or not_matching")
    sets, unknown = compile_sets(rule.regex_config)
    faults += [f"{path!r:.200} is not a field of a request and never matches" for path in dict.fromkeys(unknown)]
    return ActiveRule(
        id=rule.id,
        kind=rule.type,
        block=rule.block,
        in_cohort=rule.applied_to == "matching",
        unidentified=rule.applied_to_unidentified,
        sets=sets,
        answer=_answer(rule, faults),
    )


def _answer(rule: Rule, faults: list[str]) -> Answer:
    if not isinstance(rule.response, dict):
        raise RuleError("it has no response")
    names = [variable.name for variable in rule.variables]
    headers = tuple(_headers(rule.response.get("headers"), names, faults))
    if not rule.block:
        return Answer(headers)
    status = _status(rule.response.get("status"))
    body = None if status in BODILESS_STATUSES else rule.response.get("body")
    if body is None or body == "":
        return Answer(headers, status)
    if isinstance(body, str):
        return Answer(headers, status, Template(body, names, str), "text/plain; charset=utf-8")
    return Answer(headers, status, Template(_json_text(body), names, json_escaped), "application/json")


def _status(given: object) -> int:
    """The final status. Lua's JSON may have 429.0, and people may write "429". Raises `RuleError`."""
    if given is None:
        raise RuleError("its response has no status")
    if isinstance(given, str) and re.fullmatch(r"[0-9]{3}", given):
        given = int(given)
    if not isinstance(given, int | float) or not 200 <= given <= 599 or given != int(given):
        raise RuleError(f"its response's status is {quoted(given):.50}, not a whole number from 200 to 599")
    return int(given)


def _json_text(body: object) -> str:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as e:
        raise RuleError("its response's body cannot be written as JSON") from e


def _headers(given: object, names: Sequence[str], faults: list[str]) -> Iterable[tuple[str, Template]]:
    if given is None:
        return
    if not isinstance(given, dict):
        raise RuleError("its response's headers are not an object")
    for name, value in given.items():
        text = None if isinstance(value, list | dict) else as_text(value)
        if not HEADER_NAME.fullmatch(name):
            faults.append(f"{name!r:.200} is not a header name")
        elif name.lower() in CONNECTION_HEADERS:
            faults.append(f"rules cannot set the header {name}")
        elif text is None:
            faults.append(f"the value of the header {name} is not text")
        else:
            yield name, Template(header_text(text), names, header_text)


def decision(applied: Sequence[ActiveRule], caller: Caller) -> Decision:
    """The combined decision of the rules that apply, given in order. The first blocking rule gives the response, with
    the headers of all; if several set the same header, the first wins."""
    if not applied:
        return PASS
    blocking = next((rule for rule in applied if rule.block), None)
    headers = _merged(applied, caller)
    if blocking is None:
        return Decision(headers=tuple(headers.values()))
    body = b""
    if blocking.answer.body is not None:
        body = blocking.answer.body.fill(caller.values(blocking.id)).encode(errors="replace")
        name, content_type = headers.get("content-type", ("", ""))
        headers["content-type"] = (name or "Content-Type", content_type or blocking.answer.content_type)
    return Decision(Blocked(blocking.id, blocking.answer.status, tuple(headers.values()), body))


def _merged(applied: Sequence[ActiveRule], caller: Caller) -> dict[str, tuple[str, str]]:
    headers: dict[str, tuple[str, str]] = {}
    for rule in applied:
        values = caller.values(rule.id)
        for name, template in rule.answer.headers:
            if name.lower() not in headers:
                headers[name.lower()] = (name, template.fill(values).strip())
    return headers
