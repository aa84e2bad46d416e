"""Headers and bodies as HTML: shown by what they are, marked where something was removed, and always escaped."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.page import bodies

SCRIPT = "<script>alert(1)</script>"
OURS = {
    *("table", "tr", "th", "td", "mark", "em", "details", "summary", "div", "span", "b", "i", "pre", "p", "img"),
}
TYPES = ["application/json", "text/xml", "text/plain", "text/html", "image/png", "image/svg+xml", "multipart/form-data"]


class Tags(HTMLParser):
    """The tags and attributes that a browser would find."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        self.text += data


ATTRIBUTES = {"table class", "details class", "details open", "div class", "span class", "pre class", "p class"}
ATTRIBUTES |= {"mark title", "img alt", "img src"}


def opaque(content: bytes, content_type: str) -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {"headers": {"content-type": content_type}, "body": encoded, "transfer_encoding": "base64"}


def as_json(content: Any) -> dict[str, Any]:
    return {"headers": {}, "body": content, "transfer_encoding": "json"}


def text_of(message: Mapping[str, Any], removed: Mapping[str, str] | None = None) -> str:
    return Tags(bodies.body(message, None, removed or {})).text


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(anything | st.just({SCRIPT: SCRIPT}), st.dictionaries(st.text(), st.text(), max_size=3))
def test_no_json_body_brings_markup_of_its_own(content: Any, removed: dict[str, str]) -> None:
    assert Tags(bodies.body(as_json(content), None, removed)).found <= OURS | ATTRIBUTES


@given(
    st.binary() | st.text().map(str.encode) | st.just(SCRIPT.encode()), st.sampled_from(TYPES) | st.text(max_size=30)
)
def test_no_other_body_brings_markup_of_its_own(content: bytes, content_type: str) -> None:
    assert Tags(bodies.body(opaque(content, content_type), None, {})).found <= OURS | ATTRIBUTES


@given(st.dictionaries(st.text(), st.text() | st.just(SCRIPT)), st.dictionaries(st.text(), st.text(), max_size=3))
def test_no_header_brings_markup_of_its_own(headers: dict[str, str], removed: dict[str, str]) -> None:
    assert Tags(bodies.headers(headers, removed)).found <= OURS | ATTRIBUTES


def test_a_script_shows_as_text() -> None:
    assert SCRIPT in text_of(opaque(SCRIPT.encode(), "text/html"))
    assert SCRIPT in text_of(as_json({"a": SCRIPT}))


def test_json_is_to_be_folded() -> None:
    html = bodies.body(as_json({"card": {"number": 1}, "list": [1, 2]}), None, {})
    assert html.count("<details") == 3
    assert "card" in html


def test_a_removed_member_that_is_there_is_marked_and_one_that_is_gone_is_told() -> None:
    removed = {"card.number": "request_body_masks"}
    captured = bodies.body(as_json({"card": {"number": 4111}}), None, removed)
    assert '<mark title="request_body_masks">' in captured
    assert "4111" in captured
    sent = bodies.body(as_json({"card": {}}), None, removed)
    assert "<mark" not in sent
    assert "card.number (removed by request_body_masks)" in Tags(sent).text


def test_a_removed_header_is_told_by_its_name() -> None:
    assert "cookie removed by credential_headers" in Tags(bodies.headers({}, {"cookie": "credential_headers"})).text


@pytest.mark.parametrize(
    ("content", "content_type", "shown"),
    [
        (b"a=1&name=Ada+L", "application/x-www-form-urlencoded", "nameAda L"),
        (b"<a><b>1</b></a>", "text/xml", "  <b>1</b>"),
        (b"<!DOCTYPE a><a/>", "text/xml", "<!DOCTYPE a><a/>"),
        (b"\x00\x01binary", "application/octet-stream", "00 01 62 69 6e"),
        ("Grüße".encode(), "text/plain", "Grüße"),
        (
            '--x\r\nContent-Disposition: form-data; name="größe"\r\n\r\nhello\r\n--x--\r\n'.encode(),
            "multipart/form-data; boundary=x",
            "größehello",
        ),
    ],
)
def test_a_body_is_shown_by_what_it_is(content: bytes, content_type: str, shown: str) -> None:
    assert shown in text_of(opaque(content, content_type))


def nested(levels: int) -> bytes:
    """Each part is a form of one part."""
    return b"".join(
        b"--b%d\r\nContent-Disposition: form-data; name=a\r\nContent-Type: multipart/form-data; boundary=b%d\r\n\r\n"
        % (level, level + 1)
        for level in range(levels)
    )


HEAD = b"--b0\r\nContent-Disposition: form-data; name=a"


@pytest.mark.parametrize(
    "raw",
    [
        nested(2000) + b"x\r\n--b0--",
        nested(2000),
        nested(50) + b"\r\n" * 100_000 + b"--b0--",
        nested(2000).replace(b"\r\n", b"\r") + b"\r\n--b0--",
        (HEAD + b"\r\n\r\nx\r\n") * 50_000 + b"--b0--",
        HEAD + b"; name=a" * 100_000 + b"\r\n\r\nx\r\n--b0--",
    ],
    ids=["nested", "without an end", "many lines", "bare returns", "many parts", "many parameters"],
)
def test_what_is_shown_of_a_form_and_how_long_it_takes_is_bounded(raw: bytes) -> None:
    start = time.thread_time()
    html = bodies.body(opaque(raw, "multipart/form-data; boundary=b0"), None, {})
    assert time.thread_time() - start < 2, "processor time: with a parser of all levels it is many seconds"
    assert len(html) < 100_000


def test_of_a_form_of_many_fields_the_first_are_shown_and_that_is_said() -> None:
    html = bodies.body(opaque(b"a=1&" * 100_000, "application/x-www-form-urlencoded"), None, {})
    assert len(html) < 500_000
    assert "more than 2000 fields" in html


def test_an_image_is_shown_as_such_and_svg_as_text() -> None:
    assert 'src="data:image/png;base64,' in bodies.body(opaque(b"\x89PNG", "image/png"), None, {})
    assert "<img" not in bodies.body(opaque(b"<svg/>", "image/svg+xml"), None, {})


def test_a_token_is_decoded() -> None:
    def part(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    html = bodies.headers({"authorization": f"Bearer {part({'alg': 'none'})}.{part({'sub': SCRIPT})}.x"}, {})
    assert SCRIPT in Tags(html).text
    assert "token in authorization" in html


def test_a_body_of_many_members_is_cut_and_that_is_said() -> None:
    html = bodies.body(as_json(list(range(100_000))), None, {})
    assert len(html) < 500_000
    assert "more than 2000 lines" in html


@pytest.mark.parametrize("depth", [900, 1500, 5000])
def test_a_body_that_is_nested_deep_is_cut_and_that_is_said(depth: int) -> None:
    content: Any = "x"
    for _ in range(depth):
        content = {"a": content}
    shown = bodies.body(as_json(content), None, {})
    assert f"… nested deeper than {bodies.DEEPEST} levels" in shown
    assert shown.count("<details") == shown.count("</details>") == bodies.DEEPEST + 1


def test_why_there_is_no_body_is_said() -> None:
    assert "left out: larger than a body or an event may be" in bodies.body({}, "too_large", {})
    assert "left out: another reason" in bodies.body({}, "another reason", {})
    assert "no body" in bodies.body({}, None, {})
    assert "removed by request_body_masks" in bodies.body({}, None, {"": "request_body_masks"})
