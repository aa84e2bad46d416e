"""Answers of Moesif's collector API are read whole or refused whole, with one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.governance.model import (
    MAX_DOCUMENT_BYTES,
    GovernanceError,
    RemoteConfig,
    as_text,
    parse_config,
    parse_rules,
)
from tests.governance.builders import JSON, config, refusal, rule, rules

CONFIG: dict[str, Any] = {
    "org_id": "1:2",
    "app_id": "3:4",
    "sample_rate": 80,
    "user_sample_rate": {"alice": 10, "bob": 0.5},
    "company_sample_rate": {"acme": 100},
    "regex_config": [{"conditions": [{"path": "request.route", "value": "^/health"}], "sample_rate": 0}],
    "user_rules": {"alice": [{"rules": "r1", "values": {"0": "gold", "1": 7}}]},
    "company_rules": {"acme": [{"rules": "r2"}]},
    "billing_config_jsons": {},
}


def test_a_configuration_is_read_and_what_we_do_not_know_is_ignored() -> None:
    read = config(**CONFIG)
    assert read.sample_rate == 80
    assert read.user_sample_rate == {"alice": 10, "bob": 0.5}
    assert read.company_sample_rate == {"acme": 100}
    (sampling,) = read.regex_config
    assert (sampling.conditions[0].path, sampling.conditions[0].value, sampling.sample_rate) == (
        "request.route",
        "^/health",
        0,
    )
    assert [(entry.rules, entry.values) for entry in read.user_rules["alice"]] == [("r1", {"0": "gold", "1": 7})]
    assert [(entry.rules, entry.values) for entry in read.company_rules["acme"]] == [("r2", {})]


@pytest.mark.parametrize("document", [{}, dict.fromkeys(CONFIG)], ids=["absent", "null"])
def test_what_is_absent_or_null_has_its_default(document: dict[str, Any]) -> None:
    assert parse_config(orjson.dumps(document)) == RemoteConfig()


@pytest.mark.parametrize("wrong", [150, -1, 100.0000001, -1e-9, 1e300])
@pytest.mark.parametrize(
    "around",
    [
        lambda rate: {"sample_rate": rate},
        lambda rate: {"user_sample_rate": {"alice": 50, "bob": rate}},
        lambda rate: {"company_sample_rate": {"acme": rate}},
        lambda rate: {"regex_config": [{"conditions": [], "sample_rate": rate}]},
    ],
)
def test_a_rate_out_of_range_is_refused(around: Callable[[float], dict[str, Any]], wrong: float) -> None:
    with pytest.raises(GovernanceError, match=r"must be (less|greater) than or equal to"):
        config(**around(wrong))


@pytest.mark.parametrize(("given_rate", "rate"), [(12.5, 12.5), (1e-9, 0), (0, 0), (100, 100)])
def test_rates_have_six_decimals(given_rate: float, rate: float) -> None:
    read = config(sample_rate=given_rate, user_sample_rate={"alice": given_rate})
    assert read.sample_rate == rate
    assert read.user_sample_rate == {"alice": rate}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sample_rate", "10", "sample_rate: must be a number"),
        ("sample_rate", True, "sample_rate: must be a number"),
        ("user_sample_rate", [], "user_sample_rate: must be an object"),
        ("user_sample_rate", {"alice": "10"}, "user_sample_rate.alice: must be a number"),
        ("company_sample_rate", {"acme": None}, "company_sample_rate.acme: must be a number"),
        ("regex_config", {}, "regex_config: must be a list"),
        ("regex_config", [{"sample_rate": 1}], "regex_config[0].conditions: is missing"),
        ("regex_config", [{"conditions": ["x"]}], "regex_config[0].conditions[0]: must be an object"),
        ("user_rules", "x", "user_rules: must be an object"),
        ("user_rules", {"alice": {"rules": "r1"}}, "user_rules.alice: must be a list"),
        ("user_rules", {"alice": [{}]}, "user_rules.alice[0].rules: is missing"),
        ("user_rules", {"alice": [{"rules": ["r1"]}]}, "user_rules.alice[0].rules: must be text"),
        ("company_rules", {"acme": [{"rules": "r", "values": 1}]}, "company_rules.acme[0].values: must be an object"),
    ],
)
def test_a_wrong_type_in_the_configuration_refuses_it_and_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(GovernanceError) as refused:
        config(**{**CONFIG, field: value})
    assert str(refused.value) == message


def test_rules_are_read_in_their_order_with_defaults() -> None:
    first, second = rules(
        rule("b", type="user", regex_config=None, variables=None, applied_to=None, block=None, color="red"),
        {"_id": 7, "type": "company", "applied_to": "not_matching", "applied_to_unidentified": True},
    ).rules
    assert (first.id, first.type, first.applied_to, first.block, first.regex_config) == (
        "b",
        "user",
        "matching",
        False,
        (),
    )
    assert (second.id, second.applied_to, second.applied_to_unidentified, second.response) == (
        "7",
        "not_matching",
        True,
        None,
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"rules": []}, "must be a list of rules"),
        (None, "must be a list of rules"),
        ([1], "[0]: must be an object"),
        ([rule(), {"type": "regex"}], "[1]._id: is missing"),
        ([rule(""), rule()], "[0]._id: must not be empty"),
        ([rule(type=None)], "[0].type: must be text"),
        ([rule(block="yes")], "[0].block: must be true or false"),
        ([rule(regex_config="x")], "[0].regex_config: must be a list"),
        ([rule(regex_config=[{"conditions": None}])], "[0].regex_config[0].conditions: must be a list"),
        (
            [rule(regex_config=[{"conditions": [{"path": "request.verb"}]}])],
            "[0].regex_config[0].conditions[0].value: is missing",
        ),
        ([rule(variables=[{"path": "plan"}])], "[0].variables[0].name: is missing"),
    ],
)
def test_a_wrong_type_in_the_rules_refuses_them_and_is_named(document: object, message: str) -> None:
    with pytest.raises(GovernanceError) as refused:
        parse_rules(orjson.dumps(document))
    assert str(refused.value) == message


@pytest.mark.parametrize("raw", [b"", b"<html>502</html>", b"{", b"\xff\xfe", b"[" * 5000, b'"\\ud800"'])
def test_garbage_is_refused_with_one_line(raw: bytes) -> None:
    for parse in (parse_config, parse_rules):
        with pytest.raises(GovernanceError) as refused:
            parse(raw)
        assert str(refused.value).isprintable()


def test_an_answer_over_the_bound_is_refused_before_it_is_read() -> None:
    just_over = b"[" + b" " * (MAX_DOCUMENT_BYTES - 1) + b"]"
    with pytest.raises(GovernanceError, match="larger than 10000000 bytes"):
        parse_rules(just_over)
    assert parse_rules(just_over.replace(b" ", b"", 1)).rules == ()


def test_a_fault_in_a_long_answer_is_shown_in_one_short_printable_line() -> None:
    with pytest.raises(GovernanceError) as refused:
        config(user_rules={"x\n" * 1000: 1})
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


_CONFIG_FIELDS = st.dictionaries(st.sampled_from(sorted(CONFIG)), JSON)
_RULE_FIELDS = st.dictionaries(st.sampled_from(["_id", "type", "block", "regex_config", "variables", "response"]), JSON)


@given(_CONFIG_FIELDS | JSON)
def test_any_json_is_a_configuration_or_refused_in_one_line(document: object) -> None:
    message = refusal(lambda: parse_config(orjson.dumps(document)))
    assert message is None or message.isprintable()


@given(st.lists(_RULE_FIELDS, max_size=3) | JSON)
def test_any_json_is_rules_or_refused_in_one_line(document: object) -> None:
    message = refusal(lambda: parse_rules(orjson.dumps(document)))
    assert message is None or message.isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("", ""),
        (True, "true"),
        (12, "12"),
        (1.5, "1.5"),
        (2**80, str(2**80)),
        ({"b": [1, "é"]}, '{"b":[1,"é"]}'),
        (None, None),
        (object(), None),
    ],
)
def test_values_as_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


def test_a_value_nested_too_deeply_has_no_text() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert as_text(nested) is None
