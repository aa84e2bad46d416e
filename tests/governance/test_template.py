"""Merge tags."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mitmproxy_moesif.governance.template import Template, header_text, json_escaped


@pytest.mark.parametrize(
    ("text", "names", "values", "filled"),
    [
        ("no tags", ["0"], {"0": "x"}, "no tags"),
        ("{{0}}", ["0"], {"0": "x"}, "x"),
        ("a {{0}} b {{1}} c {{0}}", ["0", "1"], {"0": "x", "1": "y"}, "a x b y c x"),
        ("{{0}} of {{1}}", ["0", "1"], {"1": "10"}, "UNKNOWN of 10"),
        ("{{0}}{{1}}", ["0"], {"0": "x", "1": "y"}, "x{{1}}"),
        ("{{0}}", [], {"0": "x"}, "{{0}}"),
        ("{{0}}", ["0"], {"0": ""}, ""),
        ("{{ 0 }} {{0} {0}}", ["0"], {"0": "x"}, "{{ 0 }} {{0} {0}}"),
        ("{{{0}}}", ["0"], {"0": "x"}, "{x}"),
        ("{{10}}{{1}}", ["1", "10"], {"1": "a", "10": "b"}, "ba"),
        ("{{.*}}", [".*"], {".*": "x"}, "x"),
        ("{{0}}", ["0", "1"], {"0": "{{1}}", "1": "no"}, "{{1}}"),
        ("{{0}}", ["0"], {"0": r"\1 \g<0>"}, r"\1 \g<0>"),
    ],
)
@pytest.mark.parametrize("escape", [str, header_text])
def test_tags_are_filled_for_names_only(
    text: str, names: list[str], values: dict[str, str], filled: str, escape: Callable[[str], str]
) -> None:
    assert Template(text, names, escape).fill(values) == filled


@given(st.text(), st.text(st.characters(exclude_characters="{}"), min_size=1))
def test_a_value_in_json_text_comes_back_as_it_was(value: str, name: str) -> None:
    document = json.dumps({"a": ["{{" + name + "}}", "x{{" + name + "}}y"]}, ensure_ascii=False)
    filled = Template(document, [name], json_escaped).fill({name: value})
    assert json.loads(filled) == {"a": [value, f"x{value}y"]}


@given(st.text(st.characters()))
@example("a\r\nb\x00c\x7fd\x85e\u2028f\u2029g\ud800h")
def test_header_text_holds_nothing_that_could_end_the_line(text: str) -> None:
    safe = header_text(text)
    assert len(safe) == len(text)
    assert len(safe.splitlines()) <= 1
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in safe)
    safe.encode()
