"""Files read into plain values that know their lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config import document
from mitmproxy_moesif.config.document import Document, DocumentError, parse_document

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-999, 999), st.text(alphabet='ab"\\\n: é', max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(alphabet='ab"\\ é', max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def _parse(text: str, *, json_only: bool = False) -> Document:
    return parse_document(text.encode(), json_only=json_only)


def _error(content: str | bytes, *, json_only: bool = False) -> str:
    with pytest.raises(DocumentError) as caught:
        parse_document(content.encode() if isinstance(content, str) else content, json_only=json_only)
    line = caught.value.line
    return str(caught.value) if line is None else f"line {line}: {caught.value}"


def _line(parsed: Document, *path: str | int) -> int:
    line = parsed.line_of(path)
    assert line is not None
    return line


def test_yaml_gives_plain_values() -> None:
    text = """
    a: &a {text: plain, quoted: "yes", bare: yes, path: ~/orders, day: 2020-01-01, time: 1:30}
    b: [1, -2, 0x1f, 0o17, 007, 1_000, 1.5, 3.0, .inf, true, False, null, ~, ]
    c: *a
    d: {<<: *a, text: own}
    e: {<<: [{text: first}, *a]}
    """
    root = _parse(text).root
    own = {"quoted": "yes", "bare": "yes", "path": "~/orders", "day": "2020-01-01", "time": "1:30"}
    assert root["a"] == root["c"] == {"text": "plain", **own}
    assert root["b"] == [1, -2, 31, 15, 7, 1000, 1.5, 3.0, float("inf"), True, False, None, None]
    assert root["d"] == {"text": "own", **own}
    assert root["e"] == {"text": "first", **own}


def test_a_quoted_merge_key_is_a_key_like_others() -> None:
    assert _parse('a: {"<<": 1}').root == {"a": {"<<": 1}}


@given(st.dictionaries(st.text(alphabet="ab", min_size=1, max_size=3), VALUES, min_size=1))
def test_json_gives_the_same_values_however_it_is_indented(root: dict[str, Any]) -> None:
    for indent in (None, 2):
        assert _parse(json.dumps(root, indent=indent)).root == root


@given(st.dictionaries(st.text(alphabet="ab", min_size=1, max_size=3), VALUES, min_size=1))
def test_json_and_yaml_agree_on_the_line_of_every_value(root: dict[str, Any]) -> None:
    text = json.dumps(root, indent=2)
    as_json, as_yaml = _parse(text), _parse(f"# first line\n{text}")
    for path in _paths(root):
        assert _line(as_json, *path) + 1 == _line(as_yaml, *path)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    members: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    return [path, *(found for key, inner in members for found in _paths(inner, (*path, key)))]


def test_the_line_is_that_of_the_nearest_place_that_exists() -> None:
    parsed = _parse("a:\n- b: 1\n\n- c: 2\n  d:\n    e: 3\n")
    assert _line(parsed, "a") == 1
    assert _line(parsed, "a", 1) == 4
    assert _line(parsed, "a", 1, "d", "e") == 6
    assert _line(parsed, "a", 1, "d", "none", "at", 7) == 5
    assert _line(parsed, "a", 9) == 1
    assert _line(parsed, "a", 0) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "line 2: is not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\n b: 2", "line 2: is not valid YAML: mapping values are not allowed here"),
        ("a: *nothing", "line 1: is not valid YAML: found undefined alias 'nothing'"),
        ("a: 1\n---\nb: 2", "line 2: is not valid YAML: but found another document"),
        ("a: 1\nb: \x00", "line 2: is not valid YAML: unacceptable character #x0000"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice in one mapping"),
        ('{"a": 1,\n"b": 2,\n"a": 3}', "line 3: 'a' is given twice in one mapping"),
        ('{"a": 1,\n"b": ]}', "line 2: is not valid YAML: "),
        ("? [1]\n: 2", "line 1: a key must be a plain value"),
        (
            "a: 1\nb: !!python/object/apply:os.system [x]",
            "line 2: the tag tag:yaml.org,2002:python/object/apply:os.sy",
        ),
        ("a: !!binary YQ==", "line 1: the tag tag:yaml.org,2002:binary is not allowed"),
        ("a: !!set {b}", "line 1: the tag tag:yaml.org,2002:set is not allowed"),
        ("a: !!int x", "line 1: 'x' is not a number"),
        ("a: {<<: 3}", "line 1: a merge key takes mappings"),
        ("a: 1\nb: &b [*b]", "line 2: is nested too deeply"),
        ("- " * 2000 + "x", "is nested too deeply"),
        ("[" * 5000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, message: str) -> None:
    found = _error(text)
    assert found.startswith(message)
    assert "\n" not in found


def test_bytes_that_are_no_utf8_are_refused_with_their_line() -> None:
    assert _error(b"a: 1\nb: \xff") == "line 2: is not UTF-8"


def test_a_byte_order_mark_is_no_content() -> None:
    assert parse_document(b"\xef\xbb\xbfa: 1").root == {"a": 1}


def test_aliases_of_aliases_do_not_multiply_the_file() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert _error("\n".join(lines)).endswith(f"aliases make more than {document.MAX_VALUES} values of this file")


def test_a_file_over_the_size_limit_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_YAML", 10)
    monkeypatch.setattr(document, "MAX_JSON", 20)
    assert _parse('{"a": "bcdefgh"}').root == {"a": "bcdefgh"}
    assert _error('{"a": "bcdefghijklmno"}').startswith("has 23 bytes; YAML is read up to 10")
    assert _error("a: bcdefghi").startswith("has 11 bytes")


def test_an_empty_file_is_no_value() -> None:
    assert _parse("").root is None
    assert _parse("# nothing\n").root is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n"b": ]}', "line 2: is not JSON: "),
        ("a: 1", "line 1: is not JSON: "),
        ('{"a": NaN}', "line 1: is not JSON: "),
        (r'{"a": "\ud800"}', "line 1: is not JSON: "),
        ('{"a": 1, "a": 2}', "a key is given twice in one object"),
        ('{"a":' * 100_000, "line 1: is not JSON: "),
    ],
)
def test_where_only_json_is_allowed_its_parser_says_what_is_wrong(text: str, message: str) -> None:
    assert _error(text, json_only=True).startswith(message)


def test_a_list_is_read_as_json_too() -> None:
    assert _parse('[\n\t{"a": 1}\n]').root == _parse('[\n\t{"a": 1}\n]', json_only=True).root == [{"a": 1}]


def test_escaped_halves_of_a_character_are_one_in_yaml() -> None:
    assert _parse(r'a: "\ud83d\ude00"').root == {"a": "\U0001f600"}
    assert _parse(r'a: "\ud83d"').root == {"a": "\ufffd"}


def test_yaml_1_1_has_more_words_for_a_boolean() -> None:
    assert _parse("%YAML 1.1\n---\n[yes, On, true, no, off]").root == [True, True, True, False, False]


@pytest.mark.filterwarnings("error")
def test_an_anchor_may_be_defined_again() -> None:
    assert _parse("[&a x, &a y, *a]").root == ["x", "y", "y"]
