"""JSON that is the same for everybody, and JSON that is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.event.json_reading import looks_like_json, members, read_json

NOT_FOR_EVERYBODY = [
    b'{"n": 1e400}',
    b'{"n": -1e999}',
    b'{"n": NaN}',
    b'{"n": Infinity}',
    b'{"s": "\\ud800"}',
    b'{"s": "\xff"}',
    b'\xef\xbb\xbf{"n": 1}',
    '{"n": 1}'.encode("utf-16"),
    '{"n": 1}'.encode("utf-16-be"),
    '{"n": 1}'.encode("utf-32"),
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b"[" * 100_000,
    b'{"n": %s}' % (b"9" * 5000),
    b'{"n": 1} x',
    b'{"n": 1}{"n": 2}',
    b"{'n': 1}",
    b'{"n": 1,}',
    b'{"n": 01}',
    b'/**/{"n": 1}',
    b'{"s": "\t"}',
]


@pytest.mark.parametrize("content", NOT_FOR_EVERYBODY, ids=lambda content: repr(content[:20]))
def test_what_only_some_take_for_json_is_not_read(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(content)


@pytest.mark.parametrize("content", [one for one in NOT_FOR_EVERYBODY if one[:2] != b"/*"])
def test_it_looks_like_json_all_the_same(content: bytes) -> None:
    assert looks_like_json(content)


@pytest.mark.parametrize("content", [b"", b"a=1", b"--b\r\n{", b"\x1f\x8b", b'"text"', b"7"])
def test_what_nobody_takes_for_an_object(content: bytes) -> None:
    assert not looks_like_json(content)


@pytest.mark.parametrize(
    ("content", "values", "same"),
    [
        (b'{"k": 1}', [1], True),
        (b'{"k": 1, "k": 1}', [1, 1], True),
        (b'{"k": 1, "k": true}', [1, True], False),
        (b'{"k": 1, "k": 2, "k": 3}', [1, 2, 3], False),
        (b'{"k": 1, "o": {"a": 1, "a": "x"}}', [1], False),
        (b'{"k": 18446744073709551616}', [2**64], True),
        (b'{"\\u006b": 1, "k": 2}', [1, 2], False),
        (b"{}", [], True),
    ],
)
def test_every_member_is_there_and_a_difference_is_told(content: bytes, values: list[Any], same: bool) -> None:
    document, told = read_json(content)
    assert list(members(document, "k")) == values
    assert told is same


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_is_written_plainly_is_read_as_everybody_does(value: Any) -> None:
    content = json.dumps(value).encode()
    if "\\ud" not in json.dumps(value):  # half a pair is not for everybody
        assert read_json(content) == (value, True)
