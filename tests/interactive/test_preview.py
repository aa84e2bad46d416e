"""Marks in place of what masks removed."""

from __future__ import annotations

from typing import Any

import pytest

from mitmproxy_moesif.interactive.preview import put_mark

MARK = "‹removed by x›"


@pytest.mark.parametrize(
    ("event", "where", "then"),
    [
        ({"request": {"headers": {}}}, "request.headers.cookie", {"request": {"headers": {"cookie": MARK}}}),
        ({"request": {"headers": {}}}, "request.headers.x.y", {"request": {"headers": {"x.y": MARK}}}),
        ({"request": {}}, "request.body", {"request": {"body": MARK}}),
        (
            {"request": {"body": {"cards": [{"n": 1}, {}]}}},
            "request.body.cards.1.number",
            {"request": {"body": {"cards": [{"n": 1}, {"number": MARK}]}}},
        ),
        ({"request": {"body": {"text": "*****"}}}, "request.body.text", {"request": {"body": {"text": "*****"}}}),
        ({"request": {"body": [1]}}, "request.body.7", {"request": {"body": [1]}}),
        ({"request": {"body": "text"}}, "request.body.a", {"request": {"body": "text"}}),
        ({"b": {"x": [1]}}, "b.x.²", {"b": {"x": [1]}}),
    ],
)
def test_a_mark_stands_where_a_member_is_gone(event: dict[str, Any], where: str, then: dict[str, Any]) -> None:
    put_mark(event, {"where": where, "by": "x"})
    assert event == then
