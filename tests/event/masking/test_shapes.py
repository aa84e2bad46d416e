"""The tables of compose/EVENTS.md about masks: what they say of each shape is what the event has."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.events import an_exchange, event_of

EVENTS = (Path(__file__).parents[3] / "compose" / "EVENTS.md").read_text()
MASKS = {"response_body_masks": ["password"], "request_query_masks": ["token"]}


def rows(title: str) -> Iterator[tuple[list[str], str, str]]:
    """Of the table whose first heading this is: what is told of, the example, and what the event has of it."""
    table = EVENTS.split(f"| {title} | ", 1)[1].split("|---|---|---|\n", 1)[1].split("\n\n", 1)[0]
    for line in table.splitlines():
        told, example, expected = re.fullmatch(r"\| (.+?) \| `(.+)` \| (.+) \|", line).groups()  # type: ignore[union-attr]
        yield re.findall("`(.+?)`", told) + [""] * ("any" in told or "none" in told), example, expected


def cases(title: str) -> list[Any]:
    return [
        pytest.param(kind, example, expected.strip("`"), id=f"{kind} {example}")
        for kinds, example, expected in rows(title)
        for kind in kinds or [""]
    ]


def event_with(**fields: Any) -> dict[str, Any]:
    headers = fields.pop("response_headers", [])
    return event_of(an_exchange([], headers, **fields), **MASKS)


def body_shown(raw: bytes, content_type: str) -> str:
    event = event_with(response_body=raw, response_headers=[("Content-Type", content_type)] if content_type else [])
    body = event["response"].get("body")
    if body is None:
        assert event["metadata"]["body_omitted"] == {"response": "unmaskable"}
        return "left out"
    return b64decode(body).decode() if isinstance(body, str) else orjson.dumps(body).decode()


@pytest.mark.parametrize(("content_type", "body", "expected"), cases("content type"))
def test_a_body_is_shown_as_the_table_says(content_type: str, body: str, expected: str) -> None:
    assert body_shown(body.encode(), content_type) == (body if expected == "the same" else expected)


@pytest.mark.parametrize(("kind", "content", "expected"), cases("a part's type"))
def test_a_part_is_shown_as_the_table_says(kind: str, content: str, expected: str) -> None:
    head = 'Content-Disposition: form-data; name="a"' + (f"\r\nContent-Type: {kind}" if kind else "")
    sent, told = (
        f"--b\r\n{head}\r\n\r\n{text}\r\n--b--" for text in (content, content if expected == "the same" else expected)
    )
    assert body_shown(sent.encode(), "multipart/form-data; boundary=b") == told


@pytest.mark.parametrize(("header", "value", "expected"), cases("where"))
def test_a_url_is_shown_as_the_table_says(header: str, value: str, expected: str) -> None:
    if header:
        assert event_with(response_headers=[(header, value)])["response"]["headers"] == {header.lower(): expected}
    elif value.startswith("/"):
        assert event_with(target=value.encode())["request"]["uri"] == f"http://api.example.com{expected}"
    else:
        assert event_with(response_headers=[("X-Other", value)])["response"]["headers"] == {"x-other": expected}


@pytest.mark.parametrize(("_kind", "example", "expected"), cases("what"))
def test_what_the_table_says_is_not_looked_into_stays(_kind: str, example: str, expected: str) -> None:
    assert expected == "the same"
    if example.startswith("{"):
        assert body_shown(example.encode(), "") == example
    elif example.startswith("/"):
        assert event_with(target=example.encode())["request"]["uri"].endswith(example)
    else:
        assert event_with(response_headers=[("X-Other", example)])["response"]["headers"] == {"x-other": example}
