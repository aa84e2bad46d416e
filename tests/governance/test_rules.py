"""Whom rules concern, what they answer, and what several say together."""

from __future__ import annotations

import dataclasses
import itertools
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mitmproxy_moesif.governance.model import CohortEntry, RemoteConfig
from mitmproxy_moesif.governance.rules import Blocked, Decision
from mitmproxy_moesif.governance.snapshot import Snapshot
from tests.governance.builders import View, blocking, cohort, conditions, config, rule, rules, snapshot


def blocked(state: Snapshot, view: View | None = None, user: str | None = None, company: str | None = None) -> Blocked:
    answer = state.decide(view or View(), user, company).block
    assert answer is not None
    return answer


CASES = list(
    itertools.product(
        ["user", "company", "regex"],
        ["unidentified", "identified", "in cohort"],
        [True, False],
        ["matching", "not_matching", None],
        [True, False],
        [True, False],
    )
)


@pytest.mark.parametrize(("kind", "caller", "request_matches", "applied_to", "unidentified", "block"), CASES)
def test_a_rule_applies_to_those_it_is_for(
    kind: str, caller: str, request_matches: bool, applied_to: str | None, unidentified: bool, block: bool
) -> None:
    """Every combination for one rule, against the table of who it is for, written out."""
    document = (blocking if block else rule)(
        "r1",
        type=kind,
        applied_to=applied_to,
        applied_to_unidentified=unidentified,
        regex_config=[conditions(("route", "^/orders$" if request_matches else "^/invoices$"))],
    )
    members = cohort(me=["r1"] if caller == "in cohort" else ["r0"], somebody_else=["r1"])
    state = snapshot(document, user_rules=members, company_rules=members)
    me = None if caller == "unidentified" else "me"
    user, company = {"user": (me, None), "company": (None, me), "regex": (me, me)}[kind]

    concerned = {
        ("unidentified", "matching"): unidentified,
        ("unidentified", "not_matching"): unidentified,
        ("identified", "matching"): False,
        ("identified", "not_matching"): True,
        ("in cohort", "matching"): True,
        ("in cohort", "not_matching"): False,
    }[caller, applied_to or "matching"]
    applies = request_matches and (kind == "regex" or concerned)

    decision = state.decide(View(), user, company)
    if not applies:
        assert decision == Decision()
    elif block:
        assert decision == Decision(Blocked("r1", 429, (), b""))
    else:
        assert decision == Decision(headers=(("x-r1", "r1"),))


@pytest.mark.parametrize(("kind", "other"), [("user", "company"), ("company", "user")])
def test_a_users_cohorts_are_not_a_companys(kind: str, other: str) -> None:
    state = Snapshot(config(**{f"{other}_rules": cohort(me=["r1"])}), rules(rule(type=kind)))
    assert state.decide(View(), "me", "me").headers == ()


@pytest.mark.parametrize("nobody", [None, ""])
def test_an_empty_id_identifies_nobody(nobody: str | None) -> None:
    state = snapshot(rule(type="user", applied_to_unidentified=True), user_rules={"": []})
    assert state.decide(View(), nobody, nobody).headers == (("x-r1", "r1"),)


KINDS: list[dict[str, Any]] = [
    {"type": "user"},
    {"type": "user", "applied_to_unidentified": True},
    {"type": "company"},
    {"type": "company", "applied_to_unidentified": True},
    {"type": "regex"},
]


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(5))
def test_kinds_apply_in_their_order_and_inside_a_kind_as_received(first: int, second: int) -> None:
    ids = ["a", "b"]
    documents = [
        blocking(rule_id, status=400 + n, headers={"X-Same": rule_id}, **KINDS[kind])
        for n, (rule_id, kind) in enumerate(zip(ids, (first, second), strict=True))
    ]
    state = snapshot(*documents, user_rules=cohort(u=ids), company_rules=cohort(c=ids))
    winner = "b" if second < first else "a"
    answer = blocked(state, user="u", company="c")
    assert (answer.rule_id, answer.headers) == (winner, (("X-Same", winner),))


@pytest.mark.parametrize("remote_kind", KINDS)
def test_all_local_rules_are_ahead_of_the_remote_ones(remote_kind: dict[str, Any]) -> None:
    local = rules(blocking("local", status=403), blocking("early", status=402, type="user"))
    remote = blocking("remote", **remote_kind)
    users = cohort(u=["remote"])
    state = snapshot(remote, local=local, user_rules=users, company_rules=cohort(c=["remote"]))
    assert blocked(state, user="u", company="c").rule_id == "local"
    users["u"] += cohort(u=["early"])["u"]
    state = snapshot(remote, local=local, user_rules=users, company_rules=cohort(c=["remote"]))
    assert blocked(state, user="u", company="c").rule_id == "early"


def test_an_answer_has_the_headers_of_all_rules_that_apply_the_first_to_name_one_winning() -> None:
    state = snapshot(
        rule("regex", response={"headers": {"X-One": "regex", "X-Regex": "1"}}),
        blocking("late", 403, {"late": 1}, headers={"x-two": "late", "X-Late": "1"}),
        blocking("company", 402, {"by": "company"}, type="company", headers={"X-One": "company", "X-Two": "company"}),
        rule("user", type="user", response={"headers": {"x-one": "user"}}),
        rule("absent", type="user", response={"headers": {"x-one": "absent", "X-Absent": "1"}}),
        user_rules=cohort(u=["user"]),
        company_rules=cohort(c=["company"]),
    )
    decision = state.decide(View(), "u", "c")
    assert decision.headers == ()
    assert decision.block == Blocked(
        "company",
        402,
        (
            ("x-one", "user"),
            ("X-Two", "company"),
            ("X-Regex", "1"),
            ("X-Late", "1"),
            ("Content-Type", "application/json"),
        ),
        b'{"by":"company"}',
    )
    assert state.decide(View(), "u", None).block == Blocked(
        "late",
        403,
        (
            ("x-one", "user"),
            ("X-Regex", "1"),
            ("x-two", "late"),
            ("X-Late", "1"),
            ("Content-Type", "application/json"),
        ),
        b'{"late":1}',
    )


def test_rules_far_apart_apply_in_their_order() -> None:
    documents = [rule(f"r{n}", regex_config=[conditions(("verb", "GET" if n % 13 == 3 else "PUT"))]) for n in range(60)]
    names = [name for name, _ in snapshot(*documents).decide(View(), None, None).headers]
    assert names == ["x-r3", "x-r16", "x-r29", "x-r42", "x-r55"]


def test_rules_that_do_not_block_add_their_headers() -> None:
    state = snapshot(
        rule("a", response={"headers": {"X-One": "a"}}),
        rule("b", response={"status": 403, "body": "unused", "headers": {"x-one": "b", "X-Two": "b"}}),
    )
    assert state.decide(View(), None, None) == Decision(headers=(("X-One", "a"), ("X-Two", "b")))


@pytest.mark.parametrize(
    ("body", "sent", "content_type"),
    [
        ({"a": [1, {"b": "ü"}], "c": 1.5}, '{"a":[1,{"b":"ü"}],"c":1.5}', "application/json"),
        ([], "[]", "application/json"),
        ([1], "[1]", "application/json"),
        (7, "7", "application/json"),
        (False, "false", "application/json"),
        ("over quota, ü", "over quota, ü", "text/plain; charset=utf-8"),
        ('{"a":1}', '{"a":1}', "text/plain; charset=utf-8"),
        ("", "", None),
        (None, "", None),
    ],
)
@pytest.mark.parametrize("own_type", [None, "application/problem+json"])
def test_a_body_goes_as_json_or_as_text(
    body: object, sent: str, content_type: str | None, own_type: str | None
) -> None:
    answer = blocked(snapshot(blocking(body=body, headers={"content-type": own_type} if own_type else {})))
    assert answer.body == sent.encode()
    if own_type:
        assert answer.headers == (("content-type", own_type),)
    else:
        assert answer.headers == ((("Content-Type", content_type),) if content_type else ())


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_that_has_no_body_is_sent_without_one(status: int) -> None:
    assert blocked(snapshot(blocking(status=status, body={"a": 1}))) == Blocked("r1", status, (), b"")


TAGGED: dict[str, Any] = {
    "variables": [{"name": "0", "path": "plan"}, {"name": "1", "path": "left"}],
    "headers": {"X-Plan": "{{0}}/{{1}}/{{2}}"},
    "body": {"{{0}}": ["{{1}} left", {"deep": "{{0}} {{2}}"}], "number": 1},
}


@pytest.mark.parametrize(
    ("of_user", "of_company", "plan", "left"),
    [
        ({"0": "gold", "1": "3"}, None, "gold", "3"),
        (None, {"0": "gold", "1": "3"}, "gold", "3"),
        ({"0": "gold"}, {"0": "silver", "1": "3"}, "gold", "3"),
        ({"0": "gold"}, None, "gold", "UNKNOWN"),
        (None, None, "UNKNOWN", "UNKNOWN"),
        ({"0": None, "1": 3.5}, None, "UNKNOWN", "3.5"),
        ({"0": True, "1": ""}, None, "true", ""),
        ({"0": 'a"\\\n{{1}}', "1": "<x>"}, None, 'a"\\\n{{1}}', "<x>"),
    ],
)
def test_tags_are_filled_from_the_callers_values_for_that_rule(
    of_user: dict[str, object] | None, of_company: dict[str, object] | None, plan: str, left: str
) -> None:
    def entries(values: dict[str, object] | None) -> list[dict[str, object]]:
        other: dict[str, object] = {"rules": "r2", "values": {"0": "of another rule", "1": "of another rule"}}
        return [other] if values is None else [other, {"rules": "r1", "values": values}]

    answer = blocked(
        snapshot(
            blocking("r1", **TAGGED),
            user_rules={"u": entries(of_user)},
            company_rules={"c": entries(of_company)},
        ),
        user="u",
        company="c",
    )
    assert json.loads(answer.body) == {plan: [f"{left} left", {"deep": f"{plan} {{{{2}}}}"}], "number": 1}
    assert answer.headers[0] == ("X-Plan", f"{plan}/{left}/{{{{2}}}}".replace("\n", " "))


def test_a_text_body_is_filled_as_it_is() -> None:
    document = blocking(body='"{{0}}"', variables=[{"name": "0"}])
    answer = blocked(snapshot(document, user_rules={"u": [{"rules": "r1", "values": {"0": 'a"b'}}]}), user="u")
    assert answer.body == b'"a"b"'


def test_a_callers_entry_is_taken_from_local_cohorts_before_remote_ones() -> None:
    cohorts = config(user_rules={"u": [{"rules": "r1", "values": {"0": "local"}}]}).user_rules
    local = dataclasses.replace(rules(blocking("r1", **TAGGED)), user_rules=cohorts, source="rules.yaml")
    state = snapshot(local=local, user_rules={"u": [{"rules": "r1", "values": {"0": "remote", "1": "remote"}}]})
    assert blocked(state, user="u").headers[0] == ("X-Plan", "local/UNKNOWN/{{2}}")


def test_where_a_rule_is_listed_twice_for_a_caller_the_first_entry_counts() -> None:
    entries = [{"rules": "r1", "values": {"0": "first"}}, {"rules": "r1", "values": {"0": "second", "1": "x"}}]
    state = snapshot(blocking("r1", **TAGGED), user_rules={"u": entries})
    assert blocked(state, user="u").headers[0] == ("X-Plan", "first/UNKNOWN/{{2}}")


BAD_STATUSES: list[object] = [True, 0, 100, 199, 600, 429.5, -429, "429 ", "abc", "", [429], {}, 1e300]
UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"response": None}, "it has no response"),
    ({"response": "x"}, "it has no response"),
    ({"response": {}}, "its response has no status"),
    ({"response": {"status": None, "body": "x"}}, "its response has no status"),
    *(({"response": {"status": status, "body": "x"}}, "its response's status is ") for status in BAD_STATUSES),
    ({"response": {"status": 429, "headers": ["x"]}}, "headers are not an object"),
    ({"type": "subscription"}, "its type is 'subscription'"),
    ({"applied_to": "some"}, "applied_to is 'some'"),
    (
        {"regex_config": [conditions(("route", "(?!x)"))]},
        "the pattern '(?!x)' of 'request.route' is not supported by re2",
    ),
    (
        {"regex_config": [conditions(("verb", "GET")), conditions(("verb", r"(a)\1"))]},
        r"the pattern '(a)\\1' of 'request.verb'",
    ),
    ({"regex_config": [conditions(("cookie", "["))]}, "the pattern '['"),
]


@pytest.mark.parametrize(("fields", "reason"), UNUSABLE)
def test_a_rule_that_cannot_be_applied_is_switched_off_with_one_warning_and_the_others_work(
    fields: dict[str, Any], reason: str
) -> None:
    state = snapshot({**blocking("bad", 403), **fields}, blocking("good", 429))
    assert blocked(state).rule_id == "good"
    (warning,) = state.warnings
    assert warning.startswith("rule bad (Rule bad) from Moesif is disabled: ")
    assert reason in warning
    assert warning.isprintable()
    assert snapshot({**blocking("bad", 403), **fields}).decide(View(), None, None) == Decision()


def test_a_warning_is_one_printable_line_of_bounded_length_whatever_a_rule_is_called() -> None:
    long = "x\n" * 10_000
    bad = rule(long, name=long, regex_config=[conditions(("verb", f"({long}"))])
    odd = rule(long, response={"headers": {long: "1"}}, regex_config=[conditions((long, "")), conditions()])
    state = snapshot(bad, rule("odd", type=long), odd)
    assert len(state.warnings) == 3
    for warning in state.warnings:
        assert warning.isprintable()
        assert len(warning) < 1500


@pytest.mark.parametrize("status", [200, 302, 429, 599, 429.0, "429"])
def test_every_final_status_can_be_answered(status: object) -> None:
    assert blocked(snapshot(blocking(status=status))).status == int(str(status)[:3])


def test_a_rule_that_does_not_block_needs_no_status() -> None:
    state = snapshot(rule(response={"status": "abc", "headers": {"X-A": "1"}}))
    assert (state.decide(View(), None, None).headers, state.warnings) == ((("X-A", "1"),), ())


@pytest.mark.parametrize(
    "name",
    ["Content-Length", "transfer-encoding", "Connection", "Keep-Alive", "Upgrade", "TE", "Trailer", "Proxy-Connection"],
)
def test_framing_and_the_connection_are_not_a_rules_to_set(name: str) -> None:
    state = snapshot(blocking(headers={name: "1", "X-A": "b"}))
    assert blocked(state).headers == (("X-A", "b"),)
    assert state.warnings == (
        f"rule r1 (Rule r1) from Moesif applies only in part: rules cannot set the header {name}",
    )


@pytest.mark.parametrize("name", ["", "X A", "X:", ":status", "X\r\nY", "Ü", "X\x00"])
def test_a_header_with_an_impossible_name_is_left_out_and_named(name: str) -> None:
    state = snapshot(blocking(headers={name: "1", "X-A": "b"}))
    assert blocked(state).headers == (("X-A", "b"),)
    (warning,) = state.warnings
    assert warning.endswith(f"{name!r} is not a header name")
    assert warning.isprintable()


@pytest.mark.parametrize(
    ("value", "sent"), [(3600, "3600"), (True, "true"), (" a \t", "a"), ("a\r\nb: c", "a  b: c"), ("", "")]
)
def test_header_values_become_text_on_one_line(value: object, sent: str) -> None:
    assert blocked(snapshot(blocking(headers={"X-A": value}))).headers == (("X-A", sent),)


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}])
def test_a_header_without_a_text_is_left_out_and_named(value: object) -> None:
    state = snapshot(blocking(headers={"X-A": value}))
    assert blocked(state).headers == ()
    assert state.warnings[0].endswith("the value of the header X-A is not text")


def test_a_condition_that_never_matches_is_named_once_in_one_warning_with_other_faults() -> None:
    document = blocking(
        regex_config=[conditions(("cookie", "x")), conditions(("cookie", "y")), conditions(("verb", "GET"))],
        headers={"Content-Length": "1"},
    )
    state = snapshot(document)
    assert blocked(state).rule_id == "r1"
    (warning,) = state.warnings
    assert warning == (
        "rule r1 (Rule r1) from Moesif applies only in part: 'request.cookie' is not a field of a request and never "
        "matches; rules cannot set the header Content-Length"
    )


@given(
    st.text(st.characters()),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
@example(value="a\r\n\u2028\ud800b", text="x\ny", name="0")
def test_no_header_ever_holds_a_control_character_and_every_answer_can_be_encoded(
    value: str, text: str, name: str
) -> None:
    """A value comes from a configuration that may have been given by other means than JSON, hence surrogates too."""
    tag = "{{" + name + "}}"
    documents = (
        blocking("r1", headers={"X-A": f"{text}{tag}"}, body=[tag, text], variables=[{"name": name}]),
        blocking("r2", headers={"X-B": f"{tag}{text}"}, body=f"{text}{tag}", variables=[{"name": name}]),
    )
    entries = tuple(CohortEntry(rules=rule_id, values={name: value}) for rule_id in ("r1", "r2"))
    state = Snapshot(RemoteConfig(user_rules={"u": entries}), rules(*documents))
    answer = blocked(state, user="u")
    for _, header in answer.headers:
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in header)
        assert len(header.splitlines()) <= 1
        header.encode()
    json.loads(answer.body)
