"""Sorting as Kong does it, compared with recorded results of Lua's `table.sort`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.kong.entities import Route
from mitmproxy_moesif.kong.sorting import as_listed, sorted_as_in_lua


@pytest.mark.parametrize(
    ("given_items", "expected"),
    [
        ("", ""),
        ("a0", "a"),
        ("a0 b0 c0", "abc"),
        ("a0 b0 c0 d0", "acbd"),
        ("a0 b0 c0 d0 e0", "adcbe"),
        ("a0 b0 c0 d0 e0 f0 g0 h0 i0 j0 k0 l0", "ahgijkfdebcl"),
        ("a1 b0 c1 d0 e1 f0 g1 h0", "hfdbcgea"),
        ("a2 b1 c0 d1 e2 f0 g1 h0 i1 j2", "hcfidbgaej"),
    ],
)
def test_equal_items_are_in_the_order_of_luas_sort(given_items: str, expected: str) -> None:
    assert "".join(item[0] for item in sorted_as_in_lua(given_items.split(), key=lambda item: item[1])) == expected


@given(st.lists(st.integers(0, 9)))
def test_items_are_sorted_by_key(numbers: list[int]) -> None:
    assert sorted_as_in_lua(numbers, key=lambda number: -number) == sorted(numbers, reverse=True)


def test_routes_are_listed_by_id_unless_an_id_is_not_kongs() -> None:
    ids = [f"{first}0000000-0000-4000-8000-000000000000" for first in "ca1b"]
    routes = [Route(id=route_id, paths=("/",)) for route_id in ids]
    assert [route.id[0] for route in as_listed(routes)] == ["1", "a", "b", "c"]
    assert [route.id[0] for route in as_listed([*routes, Route(id="0", paths=("/",))])] == ["c", "a", "1", "b", "0"]
