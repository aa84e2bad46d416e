"""Bodies as Kong's Admin API takes them."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.admin.forms import (
    JSON,
    MAX_DEPTH,
    MAX_FIELDS,
    URLENCODED,
    BodyError,
    parse_body,
    parse_kong_form,
)

NAMES = st.text(st.characters(exclude_characters=".[]", exclude_categories=["Cs"]), min_size=1, max_size=8)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def groups(names: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """What a form can say: groups and lists that are not empty, texts at their ends."""
    trees: st.SearchStrategy[Any] = st.recursive(
        VALUES,
        lambda below: st.lists(below, min_size=1, max_size=3) | st.dictionaries(names, below, min_size=1, max_size=3),
        max_leaves=12,
    )
    return st.dictionaries(names, trees, max_size=4)


def fields(tree: Any, above: str = "", *, numbered: bool) -> list[tuple[str, str]]:
    """A tree as the fields of a form, lists as `a[1]` or, where only texts are inside, as `a[]`."""
    if isinstance(tree, dict):
        dot = "." if above else ""
        return [
            pair for name, value in tree.items() for pair in fields(value, f"{above}{dot}{name}", numbered=numbered)
        ]
    if isinstance(tree, list):
        flat = not numbered and all(isinstance(item, str) for item in tree)
        places = [f"{above}[]" if flat else f"{above}[{number}]" for number in range(1, len(tree) + 1)]
        return [
            pair for place, item in zip(places, tree, strict=True) for pair in fields(item, place, numbered=numbered)
        ]
    return [(above, tree)]


@given(groups(NAMES), st.booleans())
def test_a_form_is_read_back_as_what_was_written(tree: dict[str, Any], numbered: bool) -> None:
    body = urlencode(fields(tree, numbered=numbered)).encode()
    assert parse_kong_form(body, URLENCODED) == tree


@given(groups(st.text("abc_", min_size=1, max_size=4)))
def test_multipart_says_the_same(tree: dict[str, Any]) -> None:
    prepared = requests.Request(
        "POST", "http://a", files=[(name, (None, value)) for name, value in fields(tree, numbered=True)] or None
    ).prepare()
    if tree:
        assert isinstance(prepared.body, bytes)
        assert parse_kong_form(prepared.body, prepared.headers["Content-Type"]) == tree


def read(body: bytes, content_type: str) -> dict[str, Any] | BodyError:
    try:
        return parse_body(body, content_type)
    except BodyError as error:
        return error


@given(st.binary(max_size=60), st.sampled_from([URLENCODED, JSON, "multipart/form-data; boundary=x", "text/plain", ""]))
def test_any_bytes_give_fields_or_one_line(body: bytes, content_type: str) -> None:
    found = read(body, content_type)
    if isinstance(found, BodyError):
        assert found.status in (400, 415)
        assert "\n" not in str(found)
    else:
        assert isinstance(found, dict)


@given(st.text(st.sampled_from("ab.[]01=&"), max_size=30))
def test_any_names_give_fields_or_one_line(text: str) -> None:
    found = read(text.encode(), URLENCODED)
    if isinstance(found, BodyError):
        assert found.status == 400
    else:
        json.dumps(found)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("config.debug=true", {"config": {"debug": "true"}}),
        (
            "name=moesif&config.batch_size=10&enabled=false",
            {"name": "moesif", "config": {"batch_size": "10"}, "enabled": "false"},
        ),
        ("hosts=a&hosts=b", {"hosts": ["a", "b"]}),
        ("hosts[]=a", {"hosts": ["a"]}),
        ("hosts[]=a&hosts[]=b", {"hosts": ["a", "b"]}),
        ("hosts[2]=b&hosts[1]=a", {"hosts": ["a", "b"]}),
        ("hosts[999999999]=b&hosts[0]=a", {"hosts": ["a", "b"]}),
        ("hosts[1]=a&hosts[]=b", {"hosts": ["a", "b"]}),
        ("hosts=a,b", {"hosts": "a,b"}),
        ("hosts=", {"hosts": ""}),
        ("a[1].b=1&a[2].b=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        ("a%5B%5D=%C3%A4+b", {"a": ["ä b"]}),
        ("", {}),
    ],
)
def test_forms_of_kongs_documentation(form: str, expected: dict[str, Any]) -> None:
    assert parse_kong_form(form.encode(), f"{URLENCODED}; charset=utf-8") == expected


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("a=1&a.b=2", "given in two forms"),
        ("a.b=1&a=2", "given in two forms"),
        ("a[]=1&a.b=2", "given in two forms"),
        ("a=1&a[]=2", "given in two forms"),
        ("a[1]=1&a[1]=2", "given twice"),
        ("a..b=1", "not the name of a field"),
        (".a=1", "not the name of a field"),
        ("[1]=1", "not the name of a field"),
        ("a[x]=1", "not the name of a field"),
        ("a[1=1", "not the name of a field"),
        ("=1", "not the name of a field"),
        ("a" + ".a" * MAX_DEPTH + "=1", "nested too deep"),
        ("a=1&" * (MAX_FIELDS + 1), "Cannot parse form body"),
        ("a=%ff", "Cannot parse form body"),
    ],
)
def test_a_form_that_makes_no_sense(form: str, why: str) -> None:
    with pytest.raises(BodyError, match=why) as raised:
        parse_kong_form(form.encode(), URLENCODED)
    assert raised.value.status == 400


def test_a_file_of_curl_is_its_content() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="config.api_version"; filename="v"\r\n\r\n2.0\r\n--x--\r\n'
    expected = {"config": {"api_version": "2.0"}}
    assert parse_kong_form(body, 'multipart/form-data; boundary="x"') == expected
    with pytest.raises(BodyError, match="Cannot parse form body"):
        parse_kong_form(body, "multipart/form-data")


def test_json_keeps_its_types_and_is_an_object() -> None:
    given = {"enabled": False, "config": {"batch_size": 5, "request_query_masks": ["a"], "user_id_header": None}}
    assert parse_body(json.dumps(given).encode(), f"{JSON}; charset=utf-8") == given
    for body in (b"{", b"[]", b'"a"', b"null", b"\xff", b'{"a":' * 30 + b"1" + b"}" * 30, b"[" * 100_000):
        with pytest.raises(BodyError, match=r"^Cannot parse JSON body$"):
            parse_body(body, JSON)


def test_a_type_that_is_not_taken() -> None:
    with pytest.raises(BodyError, match="Content-Type must be") as raised:
        parse_body(b"<a/>", "text/xml")
    assert raised.value.status == 415
    assert parse_body(b"", "") == {}


@pytest.mark.parametrize("name", ["a[]", "a.b[]", "a.b{}", "a[{}]"])
def test_many_fields_take_little_of_the_proxys_time(name: str) -> None:
    """CPU, since the thread that passes the traffic on waits for it."""
    body = "&".join(f"{name.format(number)}=x" for number in range(MAX_FIELDS)).encode()
    began = time.process_time()
    parse_body(body, URLENCODED)
    assert time.process_time() - began < 0.08
