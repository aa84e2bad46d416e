"""The filter language."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.recent import terms
from mitmproxy_moesif.recent.terms import FIELDS, FilterError, parse

ROW: dict[str, Any] = {
    "method": "POST",
    "status": 502,
    "host": "api.example.com",
    "path": "/orders/7?page=2",
    "route": "list orders",
    "service": None,
    "instance": "options",
    "user": "Ada",
    "company": None,
    "ms": 120.5,
    "response_bytes": 10_000,
    "blocked_by": None,
    "error": None,
    "state": "stored",
    "cause": None,
    "id": "7d3b6e0a",
}


@pytest.mark.parametrize(
    "wanted",
    [
        *("", "  ", "ada", "ORDERS", "status:502", "status:5xx", "status:404,5xx", "status:>=500", "status:500-503"),
        *(
            "method:post",
            "method:get,POST",
            "path:/orders",
            "path:*page=2",
            "host:*.example.com",
            "user:ada",
            "user:a*",
        ),
        *("company:none", "route:none,list*", 'route:"list orders"', '"list orders"', "state:waiting", "state:stored"),
        *(
            "not company:acme",
            "not status:2xx",
            "ms:>100",
            "ms:100-200",
            "size:10000",
            "status:5xx user:ada method:post",
        ),
        *("blocked:none", "NOT user:bob", "not not", 'not "not"', 'path:"/orders"'),
    ],
)
def test_lets_through(wanted: str) -> None:
    row = ROW | {"error": "not"} if wanted == "not not" else ROW
    assert parse(wanted)(row) is (wanted != "not not")


@pytest.mark.parametrize(
    "wanted",
    [
        *("grace", "status:2xx", "status:<500", "status:none", "method:pos", "path:orders", "host:example.com"),
        *(
            "not user:ada",
            "user:[a]da",
            "user:ad?",
            "company:*",
            "state:sent",
            "ms:>200",
            "blocked:*",
            "user:ada status:404",
        ),
    ],
)
def test_keeps_back(wanted: str) -> None:
    assert not parse(wanted)(ROW)


@pytest.mark.parametrize(
    ("wanted", "at", "said"),
    [
        ("stats:5xx", 0, "there is no term `stats:`"),
        ("user:ada status:abc", 9, "`status:` takes a number, `5xx`, `>=400`, `400-499` or none, not `abc`"),
        ("size:big", 0, "`size:` takes a number, `>500`, `100-200` or none, not `big`"),
        ("state:gone", 0, "`state:` takes captured"),
        ("user:", 0, "a value is missing"),
        ('"open', 0, "a quote is not closed"),
        ('user:"open', 0, "a quote is not closed"),
        ("user:ada not", 9, "`not` must come before a term"),
        ("x" * 1001, 1000, "1000 characters"),
    ],
)
def test_says_what_is_wrong_and_where(wanted: str, at: int, said: str) -> None:
    with pytest.raises(FilterError) as raised:
        parse(wanted)
    (problem,) = raised.value.problems
    assert problem.at == at
    assert said in problem.text


def test_tells_all_that_is_wrong_at_once() -> None:
    with pytest.raises(FilterError) as raised:
        parse("status:abc foo:bar user:ada")
    assert [problem.at for problem in raised.value.problems] == [0, 11]
    assert "(at character 12)" in str(raised.value)


@given(st.text(alphabet=st.sampled_from('abc:"\\ *not-<>=,5x0'), max_size=60) | st.text(max_size=60))
def test_every_text_is_a_filter_or_refused_with_a_place_in_it(wanted: str) -> None:
    try:
        parse(wanted)(ROW)
    except FilterError as error:
        problems = error.problems
    else:
        problems = ()
    assert all(0 <= problem.at <= len(wanted) and problem.text for problem in problems)


@given(st.text(min_size=1, max_size=40).filter(str.strip))
def test_a_quoted_value_is_found_whatever_it_holds(value: str) -> None:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse(quoted)(ROW | {"user": value})


@given(st.lists(st.sampled_from(["status:5xx", "user:ada", "not company:acme", "state:sent", "grace"]), max_size=5))
def test_terms_must_all_hold(chosen: list[str]) -> None:
    assert parse(" ".join(chosen))(ROW) == all(parse(term)(ROW) for term in chosen)


@pytest.mark.parametrize("name", FIELDS)
def test_every_term_reads_a_field_that_a_row_has(name: str) -> None:
    value = "stored" if name == "state" else "none"
    parse(f"{name}:{value}")(ROW)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    """It would never end if the stars were tried against each other."""
    assert not terms.parse("path:" + "*a" * 400)(ROW | {"path": "/" + "a" * 500 + "b" * 10})
