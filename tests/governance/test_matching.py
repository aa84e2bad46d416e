"""Conditions on a request's fields: which match, in linear time, and the body only where it decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from mitmproxy_moesif.config.re2set import PatternError
from mitmproxy_moesif.governance.matching import (
    ConditionIndex,
    FieldPath,
    compile_sets,
    parse_path,
)
from mitmproxy_moesif.governance.model import ConditionSet, one_line
from tests.governance.builders import JSON, View, conditions


def condition_sets(*sets: dict[str, Any]) -> list[ConditionSet]:
    return [ConditionSet.model_validate(one) for one in sets]


def matches(view: View, *sets: dict[str, Any]) -> bool:
    """Whether one owner with these sets matches the request, its body included."""
    index = ConditionIndex([compile_sets(condition_sets(*sets))[0]])
    matched, undecided = index.evaluate(view)
    if undecided:
        matched |= index.decide_by_body(undecided, view.body())
    return matched == {0}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("request.verb", FieldPath("verb")),
        ("request.route", FieldPath("route")),
        ("request.ip_address", FieldPath("ip_address")),
        ("request.ip", FieldPath("ip_address")),
        ("request.headers.X-Plan", FieldPath("header", "x-plan")),
        ("request.headers.a.b", FieldPath("header", "a.b")),
        ("request.body.operationName", FieldPath("body", "operationName")),
        ("request.body.a.b", FieldPath("body", "a.b")),
        ("response.status", FieldPath("status")),
        ("request.headers.", None),
        ("request.body.", None),
        ("request.body", None),
        ("request.cookie", None),
        ("Request.verb", None),
        ("", None),
    ],
)
def test_paths(path: str, field: FieldPath | None) -> None:
    assert parse_path(path) == field


REQUEST = View(
    verb="POST",
    route="/api/v1/orders/42",
    ip_address="2001:db8::7",
    headers={"x-plan": "Gold", "x-empty": ""},
    json={
        "op": "list",
        "n": 12,
        "ok": True,
        "none": None,
        "deep": {"a": {"b": "x"}},
        "deep.a": "dotted",
        "list": [1, "b"],
    },
)


@pytest.mark.parametrize(
    ("path", "value", "holds"),
    [
        ("verb", "^POST$", True),
        ("verb", "^post$", False),
        ("verb", "(?i)^post$", True),
        ("verb", "OS", True),
        ("verb", "", True),
        ("route", r"^/api/v\d+/orders/\d+$", True),
        ("route", r"\/orders\/", True),
        ("route", "/invoices/", False),
        ("ip_address", "^2001:db8:", True),
        ("ip", "^2001:db8:", True),
        ("headers.x-plan", "^Gold$", True),
        ("headers.X-PLAN", "^Gold$", True),
        ("headers.x-plan", "^gold$", False),
        ("headers.x-empty", "^$", True),
        ("headers.x-missing", "", False),
        ("headers.x-missing", ".*", False),
        ("body.op", "^list$", True),
        ("body.n", "^12$", True),
        ("body.ok", "^true$", True),
        ("body.none", ".*", False),
        ("body.missing", ".*", False),
        ("body.deep", r'^\{"a":\{"b":"x"\}\}$', True),
        ("body.deep.a.b", "^x$", True),
        ("body.deep.a", "^dotted$", True),
        ("body.deep.b", ".*", False),
        ("body.op.x", ".*", False),
        ("body.list", r'^\[1,"b"\]$', True),
        ("cookie", ".*", False),
    ],
)
def test_one_condition(path: str, value: str, holds: bool) -> None:
    assert matches(REQUEST, conditions((path, value))) == holds


def test_no_sets_match_everything_and_so_does_a_set_without_conditions() -> None:
    assert matches(REQUEST)
    assert matches(REQUEST, conditions())


@pytest.mark.parametrize("verb", [True, False])
@pytest.mark.parametrize("route", [True, False])
@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_all_conditions_of_a_set_must_hold_and_any_set_suffices(
    verb: bool, route: bool, body: bool, other: bool
) -> None:
    def pattern(holds: bool) -> str:
        return "." if holds else "^never$"

    both = conditions(("verb", pattern(verb)), ("route", pattern(route)), ("body.op", pattern(body)))
    assert matches(REQUEST, both, conditions(("ip", pattern(other)))) == ((verb and route and body) or other)


def test_two_conditions_on_one_field_must_both_hold() -> None:
    assert matches(REQUEST, conditions(("route", "orders"), ("route", "42$")))
    assert not matches(REQUEST, conditions(("route", "orders"), ("route", "43$")))
    assert not matches(REQUEST, conditions(("body.op", "list"), ("body.op", "get")))


def test_a_set_with_a_field_that_we_do_not_know_never_holds_and_is_named() -> None:
    unknown = conditions(("verb", "POST"), ("cookie", ".*"))
    sets, paths = compile_sets(condition_sets(unknown))
    assert (sets, paths) == ((), ["request.cookie"])
    assert not matches(REQUEST, unknown)
    assert matches(REQUEST, unknown, conditions(("verb", "POST")))


def test_the_responses_status_is_known_only_to_sampling() -> None:
    status = [ConditionSet.model_validate({"conditions": [{"path": "response.status", "value": "^2"}]})]
    assert compile_sets(status)[1] == ["response.status"]
    sets, unknown = compile_sets(status, with_status=True)
    assert unknown == []
    assert ConditionIndex([sets]).evaluate(REQUEST, 204)[0] == {0}
    assert ConditionIndex([sets]).evaluate(REQUEST, None)[0] == set()


@pytest.mark.parametrize(
    "pattern", ["(?=x)", "(?<!a)b", r"(a)\1", "(", "a{2000}", "[z-a]", "*", r"\p{Nope}", "\ud800", "(?\n"]
)
def test_a_pattern_that_re2_refuses_is_named_with_its_field_in_one_line(pattern: str) -> None:
    with pytest.raises(PatternError) as refused:
        compile_sets(condition_sets(conditions(("verb", "GET"), ("route", pattern))))
    assert str(refused.value).startswith(
        f"the pattern {one_line(pattern)!r} of 'request.route' is not supported by re2: "
    )
    assert str(refused.value).isprintable()


GRAPHQL = [("body.operationName", "^Get"), ("body.query", "secret")]


@pytest.mark.parametrize(
    ("body", "holds"),
    [
        ({"operationName": "GetMe", "query": "{me{secret}}"}, True),
        ({"operationName": "SetMe", "query": "{me{secret}}"}, False),
        ({"query": "{me{secret}}"}, False),
        ({"operationName": None, "query": "{me{secret}}"}, False),
        ([{"operationName": "GetMe", "query": "{me{name}}"}, {"operationName": "SetMe", "query": "{secret}"}], False),
        ([{"operationName": "SetMe", "query": "{}"}, {"operationName": "GetMe", "query": "{secret}"}], True),
        ([], False),
        ([None, 1, "x", [], {}, {"operationName": "GetMe", "query": "secret"}], True),
        ([[{"operationName": "GetMe", "query": "secret"}]], False),
        ("GetMe secret", False),
        (None, False),
    ],
)
def test_the_conditions_on_a_graphql_batch_must_hold_on_one_operation(body: object, holds: bool) -> None:
    assert matches(View(json=body), conditions(*GRAPHQL)) == holds


def test_an_application_graphql_body_comes_as_the_query() -> None:
    assert matches(View(json={"query": "mutation Pay { pay }"}), conditions(("body.query", r"^mutation\s+Pay")))


def test_different_operations_of_a_batch_can_satisfy_different_sets() -> None:
    batch = [{"operationName": "A"}, {"operationName": "B"}]
    owners = [compile_sets(condition_sets(conditions(("body.operationName", name))))[0] for name in "ABC"]
    index = ConditionIndex(owners)
    _, undecided = index.evaluate(View())
    assert index.decide_by_body(undecided, batch) == {0, 1}


@given(JSON)
def test_any_body_is_looked_into_without_an_error(body: object) -> None:
    matches(View(json=body), conditions(("body.a.b", "x")), conditions(("body.", "x")), conditions(("body.a", "1")))


def test_patterns_too_large_for_one_automaton_are_still_all_searched() -> None:
    """Each fits by itself (compile_sets says so), all of them together do not."""
    large = [conditions(("route", rf"^{number}-\pL{{200}}$")) for number in range(3)]
    owners = [compile_sets(condition_sets(one))[0] for one in large]
    index = ConditionIndex(owners)
    for number in range(3):
        assert index.evaluate(View(route=f"{number}-{'ж' * 200}"))[0] == {number}
        assert index.evaluate(View(route=f"{number}-{'ж' * 199}"))[0] == set()


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d\ude00", "\x00", "a\ud800b"])
def test_text_without_an_encoding_can_be_searched(text: str) -> None:
    assert matches(View(route=text), conditions(("route", "^.+$")))
    assert not matches(View(route=text), conditions(("route", r"\?")))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b$", "(.*a){20}$", "^(([a-z!])+.)+[A-Z]([a-z])+$"])
def test_patterns_that_are_exponential_elsewhere_are_linear(pattern: str) -> None:
    """That this test ends at all is its point: a backtracking engine would not within the age of the universe."""
    assert not matches(View(json={"query": "a!" * 50_000}), conditions(("body.query", pattern)))
