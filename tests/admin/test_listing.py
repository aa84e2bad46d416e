"""Pages of a listing."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.admin.listing import Form, InvalidPage, page


@given(st.integers(0, 30), st.integers(1, 12), st.sampled_from([None, "a", "a,b", "b/c"]))
def test_the_pages_together_are_the_whole_listing(count: int, size: int, tags: str | None) -> None:
    entities = [{"id": number, "tags": ["a", "b"] if number % 3 else None} for number in range(count)]
    whole = page(entities, "/plugins", size=None, offset=None, tags=tags)
    assert whole["next"] is None
    found: list[Any] = []
    query: dict[str, str] = {"size": str(size)} | ({} if tags is None else {"tags": tags})
    while query:
        part = page(entities, "/plugins", size=query["size"], offset=query.get("offset"), tags=query.get("tags"))
        assert len(part["data"]) <= size
        found += part["data"]
        link = urlsplit(part["next"] or "")
        assert link.path in ("", "/plugins")
        query = {name: values[0] for name, values in parse_qs(link.query).items()}
        assert query.get("offset") == part.get("offset")
    assert found == whole["data"]


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ({"size": "x"}, 9, "size must be a number"),
        ({"size": "1001"}, 9, "size must be an integer between 1 and 1000"),
        ({"size": "0"}, 9, "size must be an integer between 1 and 1000"),
        ({"offset": "-1"}, 7, "'-1' is not a valid offset: bad offset"),
        ({"tags": "a,b/c"}, 11, "invalid option (tags: invalid filter syntax)"),
        ({"tags": ""}, 11, "invalid option (tags: cannot be null)"),
    ],
)
def test_a_page_that_cannot_be(query: dict[str, str], code: int, message: str) -> None:
    with pytest.raises(InvalidPage) as raised:
        page([{"id": 1}], "/plugins", **{"size": None, "offset": None, "tags": None, **query})
    assert (raised.value.code, str(raised.value)) == (code, message)


def test_a_page_has_a_hundred_unless_another_size_is_asked_for() -> None:
    entities = [{"id": number, "tags": None} for number in range(150)]
    first = page(entities, "/plugins", size=None, offset=None, tags=None)
    assert (len(first["data"]), first["next"]) == (100, "/plugins?offset=100&size=100")
    assert len(page(entities, "/plugins", size=None, offset=first["offset"], tags=None)["data"]) == 50


def test_only_what_is_on_the_page_is_shown() -> None:
    shown: list[int] = []

    def show(number: int) -> int:
        shown.append(number)
        return number

    form = Form(show, lambda number: ["even"] if number % 2 == 0 else None)
    assert page(range(1000), "/x", form, size="2", offset="4", tags="even")["data"] == [8, 10]
    assert shown == [8, 10]
