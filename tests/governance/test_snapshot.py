"""A snapshot as a whole: when it asks for the body, what it shares with the one before, and that it does not change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.governance.rules import Decision
from mitmproxy_moesif.governance.snapshot import Snapshot
from tests.governance.builders import JSON, View, blocking, cohort, conditions, config, rule, rules, snapshot

ON_BODY = conditions(("route", "^/graphql$"), ("body.query", "secret"))
QUERY = {"query": "{ secret }"}


def graphql(**fields: Any) -> View:
    return View(verb="POST", route="/graphql", json=QUERY, **fields)


def test_without_rules_everything_passes() -> None:
    view = View()
    assert Snapshot().decide(view, "u", "c") == Decision()
    assert not Snapshot().needs_body(view, "u", "c")
    assert Snapshot().sample_rate(view, 200, "u", "c") == 100


@pytest.mark.parametrize(
    ("documents", "needed"),
    [
        ([blocking()], False),
        ([blocking(regex_config=[ON_BODY])], True),
        ([blocking(regex_config=[conditions(("body.query", "secret"))])], True),
        ([blocking(regex_config=[conditions(("route", "^/orders$"), ("body.query", "secret"))])], False),
        ([blocking(regex_config=[conditions(("verb", "POST")), ON_BODY])], False),
        ([blocking(regex_config=[conditions(("verb", "GET")), ON_BODY])], True),
        ([blocking("a"), rule("b", regex_config=[ON_BODY])], True),
        ([blocking(regex_config=[ON_BODY], type="user")], True),
        ([blocking(regex_config=[ON_BODY], type="user", applied_to="not_matching")], False),
        ([blocking(regex_config=[ON_BODY], type="company")], False),
        ([blocking(regex_config=[ON_BODY], type="company", applied_to="not_matching")], True),
        ([blocking("other", regex_config=[ON_BODY], type="user")], False),
        ([blocking(status="bad", regex_config=[ON_BODY])], False),
    ],
)
def test_the_body_is_needed_only_where_it_decides_about_a_rule_for_this_caller(
    documents: list[dict[str, Any]], needed: bool
) -> None:
    state = snapshot(*documents, user_rules=cohort(u=["r1"]))
    view = graphql()
    assert state.needs_body(view, "u", "c") == needed
    assert view.body_asked == 0
    state.decide(view, "u", "c")
    assert view.body_asked == needed


@pytest.mark.parametrize("unidentified", [True, False])
def test_for_an_unidentified_caller_only_rules_for_those_need_the_body(unidentified: bool) -> None:
    state = snapshot(rule(type="user", regex_config=[ON_BODY], applied_to_unidentified=unidentified))
    assert state.needs_body(graphql(), None, None) == unidentified


@pytest.mark.parametrize(("body", "is_blocked"), [(QUERY, True), ({"query": "{ name }"}, False), (None, False)])
def test_the_body_decides(body: object, is_blocked: bool) -> None:
    state = snapshot(blocking(regex_config=[ON_BODY]))
    assert (state.decide(View(route="/graphql", json=body), None, None).block is not None) == is_blocked


def test_rules_with_the_same_conditions_are_decided_each_for_its_caller() -> None:
    state = snapshot(
        *(rule(rule_id, type="user", regex_config=[ON_BODY]) for rule_id in "abc"),
        rule("d", regex_config=[ON_BODY, conditions(("verb", "POST"))]),
        user_rules=cohort(u=["b"]),
    )
    assert state.decide(graphql(), "u", None).headers == (("x-b", "b"), ("x-d", "d"))


def test_rules_that_did_not_change_are_not_compiled_again() -> None:
    remote, local = rules(rule("a", type="user")), rules(rule("b"))
    first = Snapshot(config(), remote, local)
    second = Snapshot(config(user_rules=cohort(u=["a"])), remote, local, previous=first)
    assert second.rules is first.rules
    assert second.decide(View(), "u", None).headers == (("x-b", "b"), ("x-a", "a"))
    assert first.decide(View(), "u", None).headers == (("x-b", "b"),)
    for changed in (Snapshot(config(), rules(), local, first), Snapshot(config(), remote, rules(), first)):
        assert changed.rules is not first.rules
        assert len(changed.decide(View(), None, None).headers) <= 1


def test_warnings_of_rules_and_of_sampling_are_together() -> None:
    state = snapshot(
        rule("bad", response=None),
        local=rules(blocking("worse", status=0)),
        regex_config=[{"conditions": []}],
    )
    assert [warning.split(":")[0] for warning in state.warnings] == [
        "rule worse (Rule worse) from Moesif is disabled",
        "rule bad (Rule bad) from Moesif is disabled",
        "regex_config[0] of the sampling is disabled",
    ]


@pytest.mark.parametrize("turn", range(3))
def test_a_thousand_rules_find_the_one_that_applies(turn: int) -> None:
    documents = [
        blocking(
            f"r{n}", regex_config=[conditions(("verb", "^(GET|POST)$"), ("route", f"^/api/v{n % 7}/thing{n}(/|$)"))]
        )
        for n in range(1000)
    ]
    state = snapshot(*documents)
    number = (17, 500, 999)[turn]
    answer = state.decide(View(route=f"/api/v{number % 7}/thing{number}/x"), None, None).block
    assert answer is not None
    assert answer.rule_id == f"r{number}"
    assert state.decide(View(route=f"/api/v{number % 7 + 1}/thing{number}"), None, None) == Decision()
    assert state.decide(View(verb="PUT", route=f"/api/v{number % 7}/thing{number}"), None, None) == Decision()


EVERYTHING = snapshot(
    blocking("a", regex_config=[conditions(("verb", "x"), ("ip", "1")), conditions(("headers.a", "y"))]),
    rule("b", type="user", regex_config=[conditions(("body.a.b", "z"), ("route", "."))]),
    rule("c", type="company", applied_to_unidentified=True, regex_config=[conditions(("body.query", "z"))]),
    regex_config=[{"conditions": [{"path": "request.body.a", "value": "1"}], "sample_rate": 10}],
    user_rules=cohort(u=["b"]),
)
_ANY_TEXT = st.text(st.characters())
_VIEWS = st.builds(View, _ANY_TEXT, _ANY_TEXT, _ANY_TEXT, st.dictionaries(st.sampled_from(["a", "b"]), _ANY_TEXT), JSON)


@given(_VIEWS, st.none() | _ANY_TEXT | st.just("u"), st.none() | _ANY_TEXT, st.none() | st.integers())
def test_no_request_makes_a_decision_fail(
    view: View, user: str | None, company: str | None, status: int | None
) -> None:
    EVERYTHING.decide(view, user, company)
    EVERYTHING.needs_body(view, user, company)
    assert EVERYTHING.sample_rate(view, status, user, company) in (10, 100)
