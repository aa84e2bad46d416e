"""Sorts as Kong does, also where its order does not distinguish two entries.

Kong's router sorts with Lua's `table.sort`, which is not stable but always does the same with the same input. Its
input is the routes in the order of their ids, because that is how Kong's database lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mitmproxy_moesif.kong.entities import Route

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def as_listed(routes: Sequence[Route]) -> list[Route]:
    """The routes by id if all ids are UUIDs, as all of Kong's are; else as given."""
    are_kongs = all(_UUID.fullmatch(route.id) for route in routes)
    return sorted(routes, key=lambda route: route.id) if are_kongs else [*routes]


def sorted_as_in_lua[Item](items: Iterable[Item], key: Callable[[Item], Any]) -> list[Item]:
    """Sort by `key`; the order of items with equal keys is that of Lua's quicksort."""
    keyed = [(key(item), item) for item in items]
    ranges = [(0, len(keyed) - 1)]
    while ranges:
        low, high = ranges.pop()
        if low < high:
            middle = _partition(keyed, low, high)
            ranges += ((low, middle - 1), (middle + 1, high))
    return [item for _, item in keyed]


def _partition(keyed: list[tuple[Any, Any]], low: int, high: int) -> int:
    """Put the items of a range that are not greater before, and those not smaller after, the position returned.

    A range of up to three is sorted by this.
    """
    middle = (low + high) // 2
    _in_order(keyed, low, high)
    if not _in_order(keyed, low, middle):
        _in_order(keyed, middle, high)
    if high - low <= 2:
        return middle
    pivot = keyed[middle][0]
    _swap(keyed, middle, high - 1)
    left, right = low + 1, high - 2
    while True:
        while keyed[left][0] < pivot:
            left += 1
        while pivot < keyed[right][0]:
            right -= 1
        if right < left:
            break
        _swap(keyed, left, right)
        left, right = left + 1, right - 1
    _swap(keyed, high - 1, left)
    return left


def _in_order(keyed: list[tuple[Any, Any]], low: int, high: int) -> bool:
    """Swap two items if they are in the wrong order; whether they were."""
    is_wrong: bool = keyed[high][0] < keyed[low][0]
    if is_wrong:
        _swap(keyed, low, high)
    return is_wrong


def _swap(keyed: list[tuple[Any, Any]], one: int, other: int) -> None:
    keyed[one], keyed[other] = keyed[other], keyed[one]
