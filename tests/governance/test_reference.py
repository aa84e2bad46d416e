"""Deciding through the index gives what going through the rules one by one gives.

The reference below is the contract written down once more in the plainest way: documents as received, Python's own
regular expressions, every rule looked at in turn.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.governance.builders import View, rules, snapshot

type Document = dict[str, Any]

_VERBS = ["GET", "POST"]
_ROUTES = ["/a", "/b", "/a/b"]
_PATTERNS = ["", "^GET$", "POST", "^/a", "b$", "^/a/b$", "a|b", "x", "^$", "^x+$"]
_PATHS = [
    "request.verb",
    "request.route",
    "request.ip",
    "request.headers.H",
    "request.body.q",
    "request.body.o",
    "request.no",
]
_IDS = ["r0", "r1", "r2", "r3", "r4", "r5"]

_CONDITIONS = st.fixed_dictionaries({"path": st.sampled_from(_PATHS), "value": st.sampled_from(_PATTERNS)})
_SETS = st.fixed_dictionaries({"conditions": st.lists(_CONDITIONS, max_size=3)})
_HEADERS = st.dictionaries(st.sampled_from(["X-A", "x-a", "X-B", "X-C"]), st.sampled_from(["1", "{{0}}", "<{{1}}>"]))
_RESPONSES = st.fixed_dictionaries(
    {"status": st.integers(198, 202), "headers": _HEADERS, "body": st.just("{{0}}{{1}}")}
)
_VALUES = st.dictionaries(st.sampled_from(["0", "1"]), st.sampled_from(["v", "w", "{{0}}"]))
_ENTRIES = st.lists(st.fixed_dictionaries({"rules": st.sampled_from(_IDS)}, optional={"values": _VALUES}), max_size=4)
_COHORTS = st.dictionaries(st.sampled_from(["me", "you"]), _ENTRIES)
_RULE = st.fixed_dictionaries(
    {
        "_id": st.sampled_from(_IDS),
        "type": st.sampled_from(["user", "company", "regex"]),
        "response": _RESPONSES | st.none(),
    },
    optional={
        "block": st.booleans(),
        "applied_to": st.sampled_from(["matching", "not_matching"]),
        "applied_to_unidentified": st.booleans(),
        "regex_config": st.lists(_SETS, max_size=3),
        "variables": st.lists(st.sampled_from([{"name": "0"}, {"name": "1"}]), max_size=2),
    },
)
_OPERATIONS = st.fixed_dictionaries(
    {}, optional={"q": st.sampled_from(["x", "GET", ""]), "o": st.sampled_from(["b", 1])}
)
_VIEWS = st.builds(
    View,
    st.sampled_from(_VERBS),
    st.sampled_from(_ROUTES),
    st.just("192.0.2.7"),
    st.dictionaries(st.just("h"), st.sampled_from(["x", "", "ab"])),
    st.none() | _OPERATIONS | st.lists(_OPERATIONS, max_size=3),
)
_CALLERS = st.sampled_from([None, "me", "nobody"])


def condition_holds(condition: Document, view: View, operation: Document) -> bool:
    body = {f"request.body.{key}": str(value) for key, value in operation.items()}
    headers = {"request.headers.H": view.headers["h"]} if "h" in view.headers else {}
    known = {"request.verb": view.verb, "request.route": view.route, "request.ip": view.ip_address, **headers, **body}
    return condition["path"] in known and bool(re.search(condition["value"], known[condition["path"]]))


def request_matches(rule: Document, view: View) -> bool:
    operations: list[Any] = view.json if isinstance(view.json, list) else [view.json or {}]
    sets = rule.get("regex_config", [])
    return not sets or any(
        all(condition_holds(condition, view, operation) for condition in one["conditions"])
        for one in sets
        for operation in operations or [{}]
    )


def caller_is_meant(rule: Document, caller: str | None, cohorts: Document) -> bool:
    if caller is None:
        return bool(rule.get("applied_to_unidentified", False))
    listed = any(entry["rules"] == rule["_id"] for entry in cohorts.get(caller, []))
    wanted: str = rule.get("applied_to", "matching")
    return listed == (wanted == "matching")


def values_for(rule: Document, caller: str | None, cohorts: Document) -> dict[str, str]:
    entries = cohorts.get(caller or "", [])
    return next((entry.get("values", {}) for entry in entries if entry["rules"] == rule["_id"]), {})


def filled(rule: Document, text: str, values: dict[str, str]) -> str:
    names = {variable["name"] for variable in rule.get("variables", [])}
    pieces = re.split(r"(\{\{.\}\})", text)
    return "".join(
        values.get(piece[2], "UNKNOWN") if piece.startswith("{{") and piece[2] in names else piece for piece in pieces
    )


def usable(rule: Document) -> bool:
    return rule["response"] is not None and (not rule.get("block") or rule["response"]["status"] >= 200)


def applied_rules(
    documents: list[Document], view: View, user: str | None, company: str | None, users: Document, companies: Document
) -> list[Document]:
    order = []
    for kind, caller, cohorts in (("user", user, users), ("company", company, companies)):
        for unidentified in (False, True):
            order += [
                rule
                for rule in documents
                if rule["type"] == kind
                and rule.get("applied_to_unidentified", False) == unidentified
                and caller_is_meant(rule, caller, cohorts)
            ]
    order += [rule for rule in documents if rule["type"] == "regex"]
    return [rule for rule in order if usable(rule) and request_matches(rule, view)]


@given(st.lists(_RULE, max_size=8), st.lists(_RULE, max_size=3), _VIEWS, _CALLERS, _CALLERS, _COHORTS, _COHORTS)
def test_the_index_decides_as_the_contract_does(
    remote: list[Document],
    local: list[Document],
    view: View,
    user: str | None,
    company: str | None,
    users: Document,
    companies: Document,
) -> None:
    state = snapshot(*remote, local=rules(*local), user_rules=users, company_rules=companies)
    decision = state.decide(view, user, company)

    applied = [
        rule
        for documents in (local, remote)
        for rule in applied_rules(documents, view, user, company, users, companies)
    ]
    headers: dict[str, tuple[str, str]] = {}
    texts = []
    for rule in applied:
        values = {**values_for(rule, company, companies), **values_for(rule, user, users)}
        texts.append(filled(rule, rule["response"]["body"], values))
        for name, value in rule["response"]["headers"].items():
            headers.setdefault(name.lower(), (name, filled(rule, value, values)))
    blocking = next((number for number, rule in enumerate(applied) if rule.get("block")), None)

    if blocking is None:
        assert decision.block is None
        assert dict(zip(headers, decision.headers, strict=True)) == headers
        return
    assert decision.block is not None
    assert decision.headers == ()
    assert decision.block.rule_id == applied[blocking]["_id"]
    assert decision.block.status == applied[blocking]["response"]["status"]
    assert decision.block.body == texts[blocking].encode()
    assert decision.block.headers == (*headers.values(), ("Content-Type", "text/plain; charset=utf-8"))


@given(st.lists(_RULE, max_size=8), _VIEWS, _CALLERS, _COHORTS)
def test_the_body_changes_nothing_where_it_is_not_needed(
    documents: list[Document], view: View, user: str | None, users: Document
) -> None:
    state = snapshot(*documents, user_rules=users)
    without = View(view.verb, view.route, view.ip_address, view.headers)
    needed = state.needs_body(view, user, None)
    assert view.body_asked == 0
    if not needed:
        assert state.decide(view, user, None) == state.decide(without, user, None)
        assert view.body_asked == 0
