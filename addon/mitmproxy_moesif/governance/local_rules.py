"""Rules of one's own from a file: JSON where its name ends in `.json`, else YAML.

The file holds either a list of rules in Moesif's format, or an object that can also say who is in whose cohort, in the
format of Moesif's configuration:

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

Numbers count as text where text is meant (`_id: 7`, keys of `values`), and a date in YAML is the text of it. Unlike
Moesif's answers, an object with other keys than these three is refused, and so is an empty file, which is what a
reader sees in the middle of a write.
"""

from __future__ import annotations

from mitmproxy_moesif.config.document import DocumentError, parse_document
from mitmproxy_moesif.governance.model import (
    GovernanceError,
    RuleSet,
    check_size,
    one_line,
    read_cohorts,
    read_rules,
)

_KEYS = ("rules", "user_rules", "company_rules")


def parse_local_rules(text: str | bytes, name: str) -> RuleSet:
    """The rules in a file's text. Raises GovernanceError that names the file and, where there is one, the line."""
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
        return RuleSet(read_rules(document), source=name)
    if not isinstance(document, dict):
        raise GovernanceError(f"must be a list of rules, or an object with the keys {', '.join(_KEYS)}")
    for key in document:
        if key not in _KEYS:
            raise GovernanceError(f"is none of {', '.join(_KEYS)}", (key,))
    rules = document.get("rules")
    return RuleSet(
        rules=() if rules is None else read_rules(rules, ("rules",)),
        user_rules=read_cohorts(document, "user_rules"),
        company_rules=read_cohorts(document, "company_rules"),
        source=name,
    )
