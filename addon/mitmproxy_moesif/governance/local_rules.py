"""Reads local rules from a file: JSON if its name ends in `.json`, else YAML.

The file has either a list of rules in Moesif's format, or an object that can also assign users and companies to
cohorts, in the format of Moesif's configuration:

    rules:
      - _id: over-quota
        type: user
        block: true
        variables: [{name: "0"}]
        response:
          status: 429
          headers: {Retry-After: "3600"}
          body: {error: "over the quota of {{0}} calls"}
    user_rules:
      alice: [{rules: over-quota, values: {"0": 1000}}]
    company_rules: {}

Numbers are accepted as text (`_id: 7`, keys of `values`), and a date in YAML is its text. Unlike in Moesif's responses,
an object with other keys than these three is refused, and so is an empty file, since it may be in the middle of a
write. Likely mistakes are refused too: a key similar to a known one that is missing (`blok`), two rules with the same
id, or a cohort of a rule that is not in the file. Other unknown keys, which Moesif's rules also have, are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from mitmproxy_moesif.config.document import DocumentError, parse_document
from mitmproxy_moesif.config.text import closest, did_you_mean
from mitmproxy_moesif.governance.model import (
    CohortEntry,
    Cohorts,
    GovernanceError,
    Location,
    Rule,
    RuleSet,
    check_size,
    one_line,
    read_cohorts,
    read_rules,
)

_KEYS = ("rules", "user_rules", "company_rules")
_RULE_KEYS = {field.alias or name for name, field in Rule.model_fields.items()}
_RESPONSE_KEYS = {"status", "headers", "body"}
_A_SLIP = 0.75
"""Similarity from which a key is taken for a misspelt one; Moesif's other keys, such as `org_id`, are below it."""


def parse_local_rules(text: str | bytes, name: str) -> RuleSet:
    """Parse a file's text. Raises `GovernanceError` with the file's name and, if known, the line."""
    content = text.encode() if isinstance(text, str) else text
    try:
        check_size(content)
        document = parse_document(content, json_only=name.lower().endswith(".json"))
    except DocumentError as e:
        raise GovernanceError(_at(name, e.line, str(e))) from e
    except GovernanceError as e:
        raise GovernanceError(_at(name, None, str(e))) from e
    try:
        return _rule_set(document.root, name)
    except GovernanceError as e:
        raise GovernanceError(_at(name, document.line_of(e.location), str(e))) from e


def _at(name: str, line: int | None, message: str) -> str:
    return one_line(f"{name}, line {line}: {message}" if line else f"{name}: {message}")


def _rule_set(document: object, name: str) -> RuleSet:
    if isinstance(document, list):
        return RuleSet(_rules(document, ()), source=name)
    if not isinstance(document, dict):
        raise GovernanceError(f"must be a list of rules, or an object with the keys {', '.join(_KEYS)}")
    for key in document:
        if key not in _KEYS:
            raise GovernanceError(f"is not one of {', '.join(_KEYS)}", (key,))
    given = document.get("rules")
    rules = () if given is None else _rules(given, ("rules",))
    return RuleSet(
        rules=rules,
        user_rules=_cohorts(document, "user_rules", rules),
        company_rules=_cohorts(document, "company_rules", rules),
        source=name,
    )


def _rules(given: Any, location: Location) -> tuple[Rule, ...]:
    rules = read_rules(given, location)
    ids: set[str] = set()
    for number, rule in enumerate(given):
        if (its_id := rules[number].id) in ids:
            raise GovernanceError(f"{its_id!r:.200} is the id of another rule of this file", (*location, number, "_id"))
        ids.add(its_id)
        _check_keys(rule, _RULE_KEYS, (*location, number))
        if isinstance(response := rule.get("response"), dict):
            _check_keys(response, _RESPONSE_KEYS, (*location, number, "response"))
    return rules


def _cohorts(document: Mapping[str, Any], key: str, rules: Sequence[Rule]) -> Cohorts:
    by_id = {rule.id: rule for rule in rules}
    found = read_cohorts(document, key)
    for who, entries in found.items():
        for number, entry in enumerate(entries):
            at = (key, who, number)
            _check_keys(document[key][who][number], CohortEntry.model_fields.keys(), at)
            if entry.rules not in by_id:
                meant = did_you_mean(entry.rules, by_id)
                raise GovernanceError(f"{entry.rules!r:.200} is not a rule of this file{meant}", (*at, "rules"))
    return found


def _check_keys(given: Mapping[str, Any], known: Set[str], location: Location) -> None:
    for key in given.keys() - known:
        if meant := closest(key, known - given.keys(), _A_SLIP):
            raise GovernanceError(f"there is no such key; did you mean {meant}?", (*location, key))
