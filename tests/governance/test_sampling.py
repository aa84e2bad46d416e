"""Which rate counts, what is kept at it, and what the kept ones weigh."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.governance.sampling import keep, weight
from tests.governance.builders import View, config, snapshot


def entry(rate: float | None, *pairs: tuple[str, str]) -> dict[str, object]:
    return {"conditions": [{"path": path, "value": value} for path, value in pairs], "sample_rate": rate}


@pytest.mark.parametrize("general", [None, 60])
@pytest.mark.parametrize("of_user", [None, 0, 20, 90])
@pytest.mark.parametrize("of_company", [None, 0, 30, 80])
@pytest.mark.parametrize("of_route", [None, 0, 25, 70])
def test_the_lowest_of_the_particular_rates_counts_before_the_general_one(
    general: int | None, of_user: int | None, of_company: int | None, of_route: int | None
) -> None:
    state = snapshot(
        sample_rate=general,
        user_sample_rate={} if of_user is None else {"alice": of_user},
        company_sample_rate={} if of_company is None else {"acme": of_company},
        regex_config=[] if of_route is None else [entry(of_route, ("request.route", "^/orders"))],
    )
    particular = [rate for rate in (of_user, of_company, of_route) if rate is not None]
    expected = min(particular) if particular else 100 if general is None else general
    assert state.sample_rate(View(), 200, "alice", "acme") == expected


def test_rates_of_others_do_not_count() -> None:
    state = snapshot(
        sample_rate=50,
        user_sample_rate={"alice": 1, "": 2},
        company_sample_rate={"acme": 3},
        regex_config=[entry(4, ("request.route", "^/health$"))],
    )
    for user, company in ((None, None), ("bob", "other"), ("", "")):
        assert state.sample_rate(View(), 200, user, company) == 50


def test_the_first_matching_entry_counts_even_where_a_later_one_is_lower() -> None:
    state = snapshot(
        regex_config=[
            entry(1, ("request.verb", "POST")),
            entry(50, ("request.route", "orders"), ("request.verb", "GET")),
            entry(10, ("request.route", "orders")),
        ]
    )
    assert state.sample_rate(View(), 200, None, None) == 50
    assert state.sample_rate(View(verb="PUT"), 200, None, None) == 10
    assert state.sample_rate(View(verb="PUT", route="/x"), 200, None, None) == 100


@pytest.mark.parametrize(("status", "rate"), [(200, 5), (204, 5), (404, 100), (None, 100)])
def test_the_responses_status_is_a_field(status: int | None, rate: int) -> None:
    state = snapshot(regex_config=[entry(5, ("response.status", "^2"))])
    assert state.sample_rate(View(), status, None, None) == rate


def test_the_body_is_asked_for_only_where_no_earlier_entry_decides() -> None:
    state = snapshot(
        regex_config=[
            entry(5, ("request.verb", "GET")),
            entry(10, ("request.body.op", "^list$"), ("request.verb", "GET|POST")),
            entry(20),
        ]
    )
    for view, rate, asked in (
        (View(json={"op": "list"}), 5, 0),
        (View(verb="POST", json={"op": "list"}), 10, 1),
        (View(verb="POST", json={"op": "get"}), 20, 1),
        (View(verb="POST"), 20, 1),
        (View(verb="DELETE", json={"op": "list"}), 20, 0),
    ):
        assert (state.sample_rate(view, 200, None, None), view.body_asked) == (rate, asked)


def test_an_entry_that_cannot_be_used_is_named_and_the_others_count() -> None:
    state = snapshot(
        regex_config=[
            entry(1, ("request.route", "(?=x)")),
            entry(2, ("request.cookie", "x")),
            entry(None, ("request.verb", "GET")),
            entry(40, ("request.verb", "GET")),
        ]
    )
    assert state.sample_rate(View(), 200, None, None) == 40
    assert [warning.partition(":")[0] for warning in state.warnings] == [
        f"regex_config[{number}] of the sampling is disabled" for number in range(3)
    ]
    assert "'(?=x)'" in state.warnings[0]


def test_the_rate_of_an_entry_is_not_given_to_the_one_before_it_that_has_none() -> None:
    state = snapshot(regex_config=[entry(None, ("request.verb", "POST")), entry(40, ("request.verb", "GET"))])
    assert state.sample_rate(View(verb="GET"), 200, None, None) == 40
    assert state.sample_rate(View(verb="POST"), 200, None, None) == 100


@pytest.mark.parametrize(
    ("rate", "stands_for"), [(0, 1), (100, 1), (51, 1), (50, 2), (30, 3), (10, 10), (1, 100), (0.5, 200)]
)
def test_weight_is_the_whole_part_of_100_over_the_rate(rate: float, stands_for: int) -> None:
    assert weight(rate) == stands_for


@given(st.floats(0, 1, exclude_max=True))
def test_rate_100_keeps_everything_and_rate_0_nothing(number: float) -> None:
    assert keep(100, number)
    assert not keep(0, number)


@given(st.floats(0, 100))
def test_every_accepted_rate_has_a_weight(given_rate: float) -> None:
    assert weight(config(sample_rate=given_rate).sample_rate) >= 1


@pytest.mark.parametrize("rate", [1, 10, 50])
def test_the_sum_of_weights_is_the_traffic(rate: int) -> None:
    """One fixed source of random numbers: at 1 % of 100,000 the law of large numbers itself strays by 3 %."""
    source = random.Random(20)
    total = sum(weight(rate) for _ in range(100_000) if keep(rate, source.random()))
    assert math.isclose(total, 100_000, rel_tol=0.02)


@pytest.mark.parametrize("rate", [1, 2, 4, 5, 10, 20, 25, 50, 100])
def test_over_evenly_spread_numbers_the_sum_of_weights_is_exact(rate: int) -> None:
    total = sum(weight(rate) for number in range(10_000) if keep(rate, number / 10_000))
    assert total == 10_000
