"""A request and Moesif's documents with everything filled in but what a test is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import strategies as st

from mitmproxy_moesif.governance.model import GovernanceError, RemoteConfig, RuleSet, parse_config, parse_rules
from mitmproxy_moesif.governance.snapshot import Snapshot

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@dataclass
class View:
    """A request as conditions see it; counts how often its body was asked for."""

    verb: str = "GET"
    route: str = "/orders"
    ip_address: str = "192.0.2.7"
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    body_asked: int = 0

    @property
    def verbs(self) -> tuple[str, ...]:
        return (self.verb,)

    @property
    def routes(self) -> tuple[str, ...]:
        return (self.route,)

    def header_values(self, name: str, /) -> tuple[str, ...]:
        return (self.headers[name],) if name in self.headers else ()

    def body(self) -> object:
        self.body_asked += 1
        return self.json


def conditions(*pairs: tuple[str, str]) -> dict[str, Any]:
    """One set of conditions: paths without their `request.`, and patterns."""
    return {"conditions": [{"path": f"request.{path}", "value": value} for path, value in pairs]}


def rule(rule_id: str = "r1", **fields: Any) -> dict[str, Any]:
    """A regex rule that applies to every request and sets one header."""
    return {
        "_id": rule_id,
        "name": f"Rule {rule_id}",
        "type": "regex",
        "block": False,
        "response": {"headers": {f"x-{rule_id}": rule_id}},
        **fields,
    }


def blocking(rule_id: str = "r1", status: object = 429, body: object = None, **fields: Any) -> dict[str, Any]:
    """A rule that blocks every request that it applies to."""
    response = {"status": status, "headers": fields.pop("headers", {}), "body": body}
    return rule(rule_id, block=True, response=response, **fields)


def rules(*documents: object) -> RuleSet:
    return parse_rules(orjson.dumps(documents))


def config(**fields: object) -> RemoteConfig:
    return parse_config(orjson.dumps(fields))


def cohort(**members: Sequence[str]) -> dict[str, Any]:
    """Who (by keyword) has which rules, without values."""
    return {name: [{"rules": rule_id} for rule_id in rule_ids] for name, rule_ids in members.items()}


def snapshot(*documents: object, local: RuleSet | None = None, **configuration: object) -> Snapshot:
    return Snapshot(config(**configuration), rules(*documents), local)


def refusal(parse: Callable[[], object]) -> str | None:
    """The line with which parsing refuses; None where it accepts. Anything but a GovernanceError comes through."""
    try:
        parse()
    except GovernanceError as e:
        return str(e)
    return None
