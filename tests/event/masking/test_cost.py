"""The cost of masking is linear in the text, whatever it is made of.

Compared is the processor time for a text and for one four times as long: four times as much where it is linear, sixteen
times where it is quadratic.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from html import escape
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_moesif.config.policy import BodyPolicy
from mitmproxy_moesif.event.bodies import render
from mitmproxy_moesif.event.masking import mask_query, mask_urls

MASKS = frozenset({"token", "api-key", "-"})
POLICY = BodyPolicy(True, 10**8, MASKS, True, False)
FORM = "application/x-www-form-urlencoded"
SIZE = 8_000
TIMES = 4

UNITS = [
    *("a", "-", " ", "\t", "\n", ";", ",", "=", ":", "&", "?", "#", "/", "//", '"', "'", "<", ">", "<>", "[", "{", "%"),
    *("&amp;", "&#", "&#1", "&lt;!--", "<!--", "]]>", "<?", "\\", "\\u", "\\x", "%25", "%3B", "%3D", "%u", "\0", "ß"),
    *(
        "token",
        "token ",
        ";token",
        "token=",
        "token=1&",
        "token=1;",
        "[token",
        "-token",
        "<token>",
        "<token",
        '"token"',
    ),
    *(
        '"token" ',
        "<token> ",
        "token,\n",
        "?token=1 ",
        "/token=1",
        ";a=1",
        "a=1&",
        "a ",
        "<a>",
        "<a/>",
        "<a b='token'/>",
    ),
    *("<b>token:</b>", "token<!---->", "</a>", "<![CDATA[token]]>", '{"token":1},', "http://", "name=", "\u2028"),
]
units = st.lists(st.sampled_from(UNITS), min_size=1, max_size=3).map("".join)
ends = st.sampled_from(
    ["", ";", "?", "%3B", "token", " token", "=token", "?token=1", '"token"', " token:", "<token>", "\\", '"', "%"]
)


def in_json(text: str) -> None:
    render(json.dumps({"a": text}).encode(), "", "", POLICY)


def in_key(text: str) -> None:
    render(json.dumps({text: 1, "token": 1}).encode(), "", "", POLICY)


def in_form(text: str) -> None:
    render(text.encode(), FORM, "", POLICY)
    render(f"a={quote_plus(text)}".encode(), FORM, "", POLICY)


def in_xml(text: str) -> None:
    render(f"<r>{text}</r>".encode(), "text/xml", "", POLICY)
    render(f"<r>{escape(text)}</r>".encode(), "text/xml", "", POLICY)


def in_part(text: str) -> None:
    name = text.replace('"', "%22").replace("\n", "")
    body = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n--b--'
    render(body.encode(), "multipart/form-data; boundary=b", "", POLICY)


def in_header(text: str) -> None:
    mask_urls({"x": text}, MASKS)


def in_url(text: str) -> None:
    mask_query(text, MASKS)
    mask_query("/?" + text, MASKS)


def cost(function: Callable[[str], None], text: str) -> float:
    """The least of a few runs: what others do meanwhile does not count."""
    costs = []
    for _ in range(3):
        start = time.thread_time()
        function(text)
        costs.append(time.thread_time() - start)
    return min(costs)


@pytest.mark.parametrize("function", [in_json, in_key, in_form, in_xml, in_part, in_header, in_url])
@settings(max_examples=25)
@given(begin=ends, unit=units, end=ends)
def test_a_text_four_times_as_long_costs_four_times_as_much(
    function: Callable[[str], None], begin: str, unit: str, end: str
) -> None:
    count = SIZE // len(unit)
    short, long = (begin + unit * many + end for many in (count, count * TIMES))
    # A millisecond is what measures no better.
    assert cost(function, long) < (cost(function, short) + 0.001) * TIMES * 2.5
