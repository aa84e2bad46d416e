"""Exchanges added up."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.recent.api import Row
from mitmproxy_moesif.recent.stats import MOST_INTERVALS, add_up, percentile
from tests.recent.test_terms import ROW


def a_row(**fields: Any) -> Row:
    return cast(Row, ROW | {"weight": 1, "time": "2026-11-25T12:00:00.000Z"} | fields)


def test_of_nothing_there_is_nothing_to_tell() -> None:
    stats = add_up([])
    assert (stats["exchanges"], stats["count"], stats["over_time"], stats["routes"]) == (0, 0, [], [])


def test_counts_are_weighed() -> None:
    stats = add_up([a_row(weight=10), a_row(status=200, user="bob", state="sent"), a_row(status=None)])
    assert (stats["exchanges"], stats["count"], stats["errors"]) == (3, 12, 10)
    assert stats["statuses"] == [
        {"name": "5xx", "count": 10},
        {"name": "2xx", "count": 1},
        {"name": "none", "count": 1},
    ]
    assert stats["users"] == [{"name": "Ada", "count": 11}, {"name": "bob", "count": 1}]
    assert [(each["waiting"], each["sent"]) for each in stats["over_time"]] == [(11, 1)]
    assert stats["routes"][0]["p50"] == 120.5


def test_of_as_many_the_first_by_name_comes_first() -> None:
    """Whoever came last: bars of a chart stay where they are."""
    rows = [a_row(user="bob"), a_row(user="ada"), a_row(user="cid"), a_row(user="cid")]
    assert [each["name"] for each in add_up(rows)["users"]] == ["cid", "ada", "bob"]
    assert add_up(rows[::-1])["users"] == add_up(rows)["users"]


def test_intervals_without_an_exchange_are_told_too() -> None:
    stats = add_up([a_row(), a_row(time="2026-11-25T12:00:03.500Z")])
    assert [each["count"] for each in stats["over_time"]] == [1, 0, 0, 1]
    assert stats["seconds"] == 1


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=30))
def test_there_are_never_too_many_intervals_and_they_hold_every_exchange_of_theirs(seconds: list[int]) -> None:
    base = 1_700_000_000
    rows = [a_row(time=f"{_iso(base + second)}Z") for second in seconds]
    stats = add_up(rows)
    assert 1 <= len(stats["over_time"]) <= MOST_INTERVALS + 1
    if len({int(second) // 86_400 for second in seconds}) < MOST_INTERVALS and max(seconds) - min(seconds) < 86_400:
        assert sum(each["count"] for each in stats["over_time"]) == len(rows)


def _iso(second: int) -> str:
    from mitmproxy_moesif.event.build import iso_time

    return iso_time(second)


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 20)), min_size=1, max_size=30),
    st.sampled_from([1, 50, 95, 99, 100]),
)
def test_a_percentile_is_that_of_the_list_in_which_each_stands_as_often_as_it_weighs(
    timed: list[tuple[float, int]], percent: int
) -> None:
    timed.sort()
    long = [value for value, weight in timed for _ in range(weight)]
    rank = -(-len(long) * percent // 100)
    assert percentile(timed, percent) == long[rank - 1]
