"""What is told of masks: names and places, and never what they removed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.policy import compile_policy
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.recent.masked import difference, masked_query
from mitmproxy_moesif.recent.notes import Keep
from tests.recent.kept import SECRET, kept
from tests.support.events import an_exchange

JSON = [("Content-Type", "application/json")]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "pin"]), inner, max_size=3),
    max_leaves=10,
)


def body(content: Any) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"password": SECRET, "a": 1}, ["password"]),
        ({"user": {"cards": [{"password": SECRET}, {"n": 1}]}}, ["user.cards.0.password"]),
        ({"PassWord": SECRET}, ["PassWord"]),
        ({"user[password]": SECRET}, ["…"]),
        ({"inner": json.dumps({"password": SECRET})}, ["inner"]),
        ({json.dumps({"password": SECRET}): 1}, ["…"]),
        ({"a": 1}, []),
    ],
)
def test_what_body_masks_removed_is_told_by_its_place(content: Any, places: list[str]) -> None:
    detail = kept(an_exchange([], JSON, response_body=body(content)), response_body_masks=["password"])
    assert [one["where"] for one in detail["removed"]] == [f"response.body.{place}" for place in places]
    assert {one["by"] for one in detail["removed"]} <= {"response_body_masks"}
    assert SECRET not in json.dumps(detail)


def test_a_form_is_told_as_a_whole() -> None:
    exchange = an_exchange(
        [("Content-Type", "application/x-www-form-urlencoded")], [], request_body=f"a=1&password={SECRET}".encode()
    )
    detail = kept(exchange, request_body_masks=["password"])
    assert detail["removed"] == [{"where": "request.body", "by": "request_body_masks"}]


def test_headers_are_told_with_the_parameter_that_names_them() -> None:
    exchange = an_exchange([("Authorization", f"Bearer {SECRET}"), ("X-Pin", SECRET), ("X-Other", "1")], [])
    detail = kept(exchange, request_header_masks=["x-pin"])
    assert detail["removed"] == [
        {"where": "request.headers.authorization", "by": "credential_headers"},
        {"where": "request.headers.x-pin", "by": "request_header_masks"},
    ]
    assert SECRET not in json.dumps(detail)


@pytest.mark.parametrize("event", [{}, {"request": {}}, {"request": {"headers": None}}, {"request": None}])
def test_a_hook_may_have_removed_what_is_looked_into(event: dict[str, Any]) -> None:
    assert masked_query(compile_policy(parse_settings({"request_query_masks": "token"})), event) == []


def test_masked_query_parameters_are_told() -> None:
    exchange = an_exchange([("Referer", f"http://h/?pin={SECRET}")], [], target=f"/x?pin={SECRET}&a=1".encode())
    detail = kept(exchange, request_query_masks=["pin"])
    assert [one["where"] for one in detail["removed"]] == ["request.uri", "request.headers.referer"]
    assert SECRET not in json.dumps(detail)


def test_with_raw_the_event_without_masks_is_told_beside_it() -> None:
    exchange = an_exchange([("Cookie", SECRET)], JSON, response_body=body({"password": SECRET, "a": 1}))
    detail = kept(exchange, Keep(10, raw=True), response_body_masks=["password"])
    assert detail["captured"] is not None
    assert detail["event"] is not None
    assert detail["captured"]["response"]["body"] == {"password": SECRET, "a": 1}
    assert detail["captured"]["request"]["headers"]["cookie"] == SECRET
    assert SECRET not in json.dumps(detail["event"])


@given(values, values)
def test_there_is_a_difference_where_values_differ_and_only_there(before: Any, after: Any) -> None:
    found = list(difference(before, after, lambda key: True))
    assert (not found) or before != after
    assert (not list(difference(before, before, lambda key: True))) is True


@given(values)
def test_every_member_that_is_gone_is_told(before: Any) -> None:
    gone = list(difference(before, _without(before), lambda key: True))
    assert len(gone) == _count(before)
    assert all(path[-1] == "pin" for path in gone)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key != "pin"}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return sum(1 if key == "pin" else _count(inner) for key, inner in value.items())
    return sum(map(_count, value)) if isinstance(value, list) else 0
