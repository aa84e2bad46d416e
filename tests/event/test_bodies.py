"""What the event shows of a body: JSON as it came, the rest in base64, and the reason where nothing is shown."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from base64 import b64decode, b64encode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.policy import BodyPolicy
from mitmproxy_moesif.event.bodies import Rendered, render

NOTHING = Rendered(None, None, None)
TOO_LARGE = Rendered(None, None, "too_large")
UNMASKABLE = Rendered(None, None, "unmaskable")


def policy(
    *masks: str, capture: bool = True, limit: int = 100_000, decompress: bool = True, send_unmaskable: bool = False
) -> BodyPolicy:
    return BodyPolicy(capture, limit, frozenset(masks), decompress, send_unmaskable)


def base64(raw: bytes) -> Rendered:
    return Rendered(b64encode(raw).decode(), "base64", None)


def document(rendered: Rendered) -> bytes:
    """The JSON that goes into the event."""
    assert rendered.transfer_encoding == "json"
    assert rendered.omitted is None
    return orjson.dumps(rendered.value)


def nested(value: object) -> bytes:
    """As deep in an event and a batch as it will be."""
    return orjson.dumps([{"request": {"body": value}}])


JSON_AS_IT_IS = [
    b"{}",
    b"[]",
    b'{"empty":[],"object":{}}',
    b' \t{"blank":"before"}',
    b'{"big":123456789012345678901234567890,"small":-9223372036854775809}',
    b'{"int":' + b"9" * 6000 + b"}",
    b"[1e400,-1E+400,1e-400,0.1000,1.0,-0,1.7976931348623157e308,12345678901234567.123456789]",
    b'["1e400 in a text",1e400,"\\"1e999"]',
    b'{"b":1,"a":2,"b":3}',
    '{"é":"\\u00e9 \\/ 😀 \\ud83d\\ude00"}'.encode(),
    b"[" * 900 + b"]" * 900,
    b'{"a":' * 1000 + b"1" + b"}" * 1000,
    b"[" + b"[]," * 5000 + b"1e400]",
]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", "multipart/form-data"])
@pytest.mark.parametrize("raw", JSON_AS_IT_IS, ids=lambda raw: raw[:24].decode())
def test_json_goes_as_the_bytes_that_came(raw: bytes, content_type: str) -> None:
    rendered = render(raw, content_type, "", policy())
    assert document(rendered) == raw
    assert nested(rendered.value) == b'[{"request":{"body":' + raw + b"}}]"


NO_JSON = [
    b"hello, world",
    b"<p>hello</p>",
    b"\x00\xff\xfe",
    b"  ",
    b"{",
    b'{"a":1}x',
    b'{"a":1}\n{"a":2}',
    b"[NaN]",
    b"[01]",
    b"[1e400e5]",
    b"[1e400",
    b"[1.e400]",
    b"[--1e400]",
    b"[true1e400]",
    b'["\xff"]',
    b'["a\nb"]',
    b"\x0b[]",
    b'"text"',
    b"12",
    b"[" * 5000,
    b"[" * 1001 + b"]" * 1001,
    b"[1e400," + b"[" * 1001 + b"]" * 1001 + b"]",
]


@pytest.mark.parametrize("raw", NO_JSON, ids=repr)
def test_all_else_goes_base64(raw: bytes) -> None:
    assert render(raw, "application/json", "", policy()) == base64(raw)


def test_line_breaks_become_spaces_since_events_are_stored_one_per_line() -> None:
    raw = b'\r\n{\n  "text": "two\\nlines",\r\n  "n": [\r1]\n}\n'
    shown = document(render(raw, "", "", policy()))
    assert b"\n" not in shown
    assert b"\r" not in shown
    assert json.loads(shown) == json.loads(raw)
    assert document(render(b"[1,\r2]", "", "", policy())) == b"[1, 2]"
    assert document(render(raw, "", "", policy("n"))) == b'  {   "text": "two\\nlines" } '


numbers = (
    st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(codec="utf-8"))
keys = texts.filter(lambda key: key != "password")
documents = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.just("password"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)


@given(
    value=st.lists(documents) | st.dictionaries(keys, documents),
    indent=st.none() | st.integers(0, 2),
    ascii_only=st.booleans(),
    masked=st.booleans(),
)
def test_unmasked_json_survives_exactly(value: object, indent: int | None, ascii_only: bool, masked: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    shown = nested(render(raw, "", "", policy("password") if masked else policy()).value)
    assert b"\n" not in shown
    assert json.loads(shown) == [{"request": {"body": value}}]


@pytest.mark.parametrize("raw", [None, b""])
@pytest.mark.parametrize("masks", [(), ("password",)])
def test_no_body_is_no_omission(raw: bytes | None, masks: tuple[str, ...]) -> None:
    assert render(raw, "application/json", "gzip", policy(*masks)) == NOTHING


def test_a_body_that_decodes_to_nothing_is_no_omission() -> None:
    for masks in ((), ("password",)):
        assert render(gzip.compress(b""), "text/plain", "gzip", policy(*masks)) == NOTHING


def test_capture_switched_off() -> None:
    assert render(b"{}", "application/json", "", policy(capture=False)) == NOTHING
    assert render(b"x" * 200_000, "", "", policy(capture=False)) == NOTHING


def test_the_limit_comes_first_and_is_inclusive() -> None:
    assert document(render(b"[1,2]", "", "", policy(limit=5))) == b"[1,2]"
    assert render(b"[1,2]", "", "", policy(limit=4)) == TOO_LARGE
    assert render(b"\xff" * 5, "", "unknown", policy("password", limit=4)) == TOO_LARGE
    assert render(b"x", "", "", policy(limit=0)) == TOO_LARGE


def test_the_limit_holds_for_the_decoded_body() -> None:
    raw = gzip.compress(b'{"pad":"' + b"x" * 5000 + b'"}')
    assert render(raw, "", "gzip", policy(limit=5010)).transfer_encoding == "json"
    assert render(raw, "", "gzip", policy(limit=5009)) == TOO_LARGE


def test_encoded_bodies_are_decoded_before_they_are_judged() -> None:
    assert document(render(gzip.compress(b'{"a":1}'), "text/plain", "gzip", policy())) == b'{"a":1}'
    assert render(gzip.compress(b"hello"), "text/plain", "GZIP", policy()) == base64(b"hello")
    assert document(render(zlib.compress(b'{"a":1,"b":2}'), "", "deflate", policy("a"))) == b'{"b":2}'
    assert document(render(b"{}", "", "identity", policy(decompress=False))) == b"{}"


@pytest.mark.parametrize("encoding", ["gzip", "unknown", "gzip, gzip"])
def test_what_does_not_decode_goes_as_it_came_unless_something_must_be_masked(encoding: str) -> None:
    raw = b'{"password":"s3cret"}'
    assert render(raw, "application/json", encoding, policy()) == base64(raw)
    assert render(raw, "application/json", encoding, policy("password")) == UNMASKABLE
    assert render(raw, "application/json", encoding, policy("password", send_unmaskable=True)) == base64(raw)


def test_decompression_switched_off() -> None:
    raw = gzip.compress(b'{"a":1}')
    assert render(raw, "application/json", "gzip", policy(decompress=False)) == base64(raw)
    assert render(raw, "application/json", "gzip", policy("a", decompress=False)) == UNMASKABLE
    assert document(render(b'{"a":1}', "", "", policy(decompress=False))) == b'{"a":1}'


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/html", "application/octet-stream", "", "application/json"]
)
def test_what_has_no_fields_that_can_be_found_is_left_out_under_masks(content_type: str) -> None:
    raw = b"password: s3cret"
    assert render(raw, content_type, "", policy("password")) == UNMASKABLE
    assert render(raw, content_type, "", policy("password", send_unmaskable=True)) == base64(raw)


def test_masking_applies_though_unmaskable_bodies_are_sent() -> None:
    shown = render(b'{"password":1,"a":2}', "", "", policy("password", send_unmaskable=True))
    assert document(shown) == b'{"a":2}'


def test_a_form_of_which_nothing_is_left_is_no_body() -> None:
    assert render(b"password=x", "application/x-www-form-urlencoded", "", policy("password")) == NOTHING


def test_policies_of_the_same_settings_are_equal() -> None:
    assert policy("a", "b") == policy("b", "a")
    assert "password" in repr(policy("password"))


content_types = st.sampled_from(
    [
        "application/json",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-16",
        "multipart/form-data; boundary=b",
        'multipart/form-data; boundary="',
        "text/xml; charset=\x00",
        "application/xml",
        "image/svg+xml",
        "",
    ]
) | st.text(max_size=40)
encodings = st.sampled_from(["", "gzip", "deflate", "br", "zstd", "gzip, br"]) | st.text(max_size=20)
beginnings = st.sampled_from(
    [b"", b"{", b"[", b'{"a":', b"<a>", b"<?xml", b"\xff\xfe<\0", b"--b\r\n", b"a=%", gzip.compress(b"x", mtime=0)[:12]]
)
marks = rb"""" : { } [ ] , 1 a "a" \u0061 <a> </a> <!-- <a/> = & % \ "\""""
headers = [b"\r\n", b"\r\n--b", b"\r\n\r\n", b"Content-Disposition: form-data; name=a", b";name*=utf-8''a"]
pieces = st.sampled_from([*marks.split(), *headers])


@given(
    raw=st.tuples(beginnings, st.lists(pieces | st.binary(max_size=8)).map(b"".join)).map(b"".join),
    content_type=content_types,
    content_encoding=encodings,
    masks=st.frozensets(st.sampled_from(["a", "é", "\ud800", "", "\\", '"', ",", "b]"]) | st.text(), max_size=3),
    send=st.booleans(),
)
def test_no_body_and_no_header_raise(
    raw: bytes, content_type: str, content_encoding: str, masks: frozenset[str], send: bool
) -> None:
    shown = render(raw, content_type, content_encoding, policy(*masks, limit=500, send_unmaskable=send))
    assert b"\n" not in nested(shown.value)
    assert (shown.value is None) == (shown.transfer_encoding is None)
    assert shown.value is None or shown.omitted is None
    if shown.transfer_encoding == "json":
        json.loads(nested(shown.value), parse_int=len)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 10_000_000,
        b'["' + b'\\"' * 2_000_000,
        b'{"a":' + b"[" * 10_000_000,
        b"{" + b'"\\u0061":1,' * 200_000 + b'"z":1}',
        b'{"b":"' + b"1e400 " * 500_000,
        b"[" + b"9" * 3_000_000,
    ],
    ids=lambda raw: raw[:12].decode(),
)
@pytest.mark.timeout(20)
def test_hostile_json_is_answered_in_linear_time(raw: bytes) -> None:
    """Quadratic work on bodies of this size would take minutes, which the time limit of the test ends."""
    for masks in ((), ("a",)):
        assert render(raw, "", "", policy(*masks, limit=2**40)).omitted != "too_large"


def test_numbers_are_beyond_pythons_digit_limit() -> None:
    digits = b"7" * (sys.int_info.default_max_str_digits + 1)
    shown = document(render(b'{"a":' + digits + b',"b":1}', "", "", policy("b")))
    assert shown == b'{"a":' + digits + b"}"
    assert b64decode(render(digits, "", "", policy()).value) == digits  # type: ignore[arg-type]
