"""Expressions mean what they mean to Kong's router."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.kong.expressions import FIELDS, ExpressionError, Taken, compile_expression

REQUEST = {
    "http.path": ("/orders/7",),
    "http.host": ("api.example.com",),
    "http.method": ("GET",),
    "http.headers.x_tenant": ("Green", "Blue"),
    "net.protocol": ("https",),
    "net.src.ip": ("10.1.2.3",),
    "http.path.segments.len": ("10",),
}


def holds(source: str) -> bool:
    return compile_expression(source).holds(REQUEST, Taken())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('http.path == "/orders/7"', True),
        ('http.path == "/orders"', False),
        ('http.path != "/orders"', True),
        ('http.path ^= "/orders"', True),
        ('http.path ^= "orders"', False),
        ('http.path =^ "/7"', True),
        ('http.path contains "ders"', True),
        (r'http.path ~ "/\\d+$"', True),
        (r'http.path ~ r#"^/orders/\d+$"#', True),
        (r'http.path ~ r#"^\d"#', False),
        ('http.host == "api.example.com"', True),
        ('http.method == "GET" && http.path ^= "/o"', True),
        ('(http.method == "GET") && !(http.path ^= "/p")', True),
        ('!(http.method == "GET" || http.method == "PUT")', False),
        ('lower(http.method) == "get"', True),
        ('net.protocol == "https"', True),
        ("net.src.ip in 10.0.0.0/8", True),
        ("net.src.ip not in 10.0.0.0/8", False),
        ("net.src.ip in 192.168.0.0/16", False),
        ("net.src.ip in fd00::/8", False),
        ("net.src.ip == 10.1.2.3", True),
        ("net.src.ip != 10.1.2.3", False),
        ("http.path.segments.len == 10", True),
        ("http.path.segments.len == 0xa", True),
        ("http.path.segments.len == 012", True),
        ("http.path.segments.len != 10", False),
        ("http.path.segments.len > 9", True),
        ("http.path.segments.len >= 10", True),
        ("http.path.segments.len < 10", False),
        ("http.path.segments.len <= 9", False),
        ("any(http.path.segments.len) > -9", True),
    ],
)
def test_a_condition(source: str, expected: bool) -> None:
    assert holds(source) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('http.headers.x_tenant == "Green"', False),
        ('any(http.headers.x_tenant) == "Green"', True),
        ('any(lower(http.headers.x_tenant)) == "green"', True),
        ('lower(any(http.headers.x_tenant)) == "green"', True),
        ('http.headers.x_tenant ~ "^(Green|Blue)$"', True),
        ('http.headers.x_tenant != "Red"', True),
        ('any(http.headers.x_tenant) != "Green"', True),
        ('any(http.headers.x_tenant) == "Red"', False),
    ],
)
def test_of_several_values_all_must_meet_a_condition_or_any_where_it_says_so(source: str, expected: bool) -> None:
    assert holds(source) is expected


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^\w+$", "jos\u00e9_1"),
        (r"^[\w-]+$", "jos\u00e9-\u03b1"),
        (r"^[[:digit:]\w]+$", "7\u00e9"),
        (r"^[]\d]+$", "\u0663]"),
        (r"^\d\d$", "\u0663\u0664"),
        (r"^a\sb$", "a\u00a0b"),
        (r"^[\D]$", "x"),
        (r"^\\w$", r"\w"),
        (r"^\w\W\S\D$", "a-bx"),
    ],
)
def test_a_pattern_is_of_all_alphabets(pattern: str, text: str) -> None:
    assert compile_expression(f'http.path ~ r#"{pattern}"#').holds({"http.path": (text,)}, Taken())


@pytest.mark.parametrize(
    ("pattern", "text"), [(r"\W", "\u00e9"), (r"\D", "\u0663"), (r"\S", "\u00a0"), (r"[\D]", "\u0663")]
)
def test_what_a_pattern_excludes_is_of_all_alphabets(pattern: str, text: str) -> None:
    assert not compile_expression(f'http.path ~ r#"{pattern}"#').holds({"http.path": (text,)}, Taken())


@pytest.mark.parametrize("source", ['tls.sni == "a"', 'tls.sni != "a"', 'any(http.headers.x) != "a"'])
def test_a_field_without_a_value_meets_no_condition(source: str) -> None:
    assert holds(source) is False
    assert holds(f"!({source})") is True


def test_or_binds_tighter_than_and() -> None:
    no, yes = 'http.method == "PUT"', 'http.method == "GET"'
    assert holds(f"{yes} || {yes} && {no}") is False
    assert holds(f"{no} && {no} || {yes}") is False
    assert holds(f"({no} && {no}) || {yes}") is True


def test_a_text_has_escapes_and_a_raw_one_has_none() -> None:
    shown = {"http.path": ('a"\\\n',)}
    assert compile_expression(r'http.path == "a\"\\\n"').holds(shown, Taken())
    assert compile_expression('http.path == r#"a"\\\n"#').holds(shown, Taken())


def test_what_was_taken_of_the_path_is_known() -> None:
    taken = Taken()
    assert compile_expression(r'http.path ~ r#"^/(?P<kind>\w+)/(\d)"#').holds(REQUEST, taken)
    assert taken.path == "/orders/7"
    taken = Taken()
    assert compile_expression('http.path ^= "/ord" && http.method != "PUT"').holds(REQUEST, taken)
    assert taken.path == "/ord"


@pytest.mark.parametrize(
    ("source", "starts"),
    [
        ('http.path ^= "/a"', {"/a"}),
        ('http.path == "/a" && http.method == "GET"', {"/a"}),
        ('http.method == "GET" && (http.path == "/a" || http.path ^= "/b")', {"/a", "/b"}),
        ('http.path == "/a" || http.method == "GET"', None),
        ('!(http.path == "/a")', None),
        ('lower(http.path) == "/a"', None),
        ('http.path ~ "/a"', None),
        (r'http.path ~ r#"^/a/b-c/\d+$"#', {"/a/b-c/"}),
        ('http.path ~ "^/ab?"', {"/a"}),
        ('http.path ~ "^/ab{0}c"', {"/a"}),
        ('http.path ~ "^/a.b"', {"/a"}),
        ('http.path ~ "^/a|/b"', None),
        ('http.path ~ "^/(a|b)"', None),
        ('http.path ~ "(?i)^/a"', None),
        ('http.path ~ "^.*"', None),
        ('lower(http.path) ~ "^/a"', None),
    ],
)
def test_where_paths_must_start_is_known(source: str, starts: set[str] | None) -> None:
    assert compile_expression(source).starts == starts


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected a field (character 1)"),
        ("true", "true: is not understood here; http.path, "),
        ('http.queries.a.b == "1"', "http.queries.a.b: is not understood here"),
        ('http.headers.a.b == "1"', "http.headers.a.b: is not understood here"),
        ("net.dst.port == 80", "net.dst.port: is not understood here"),
        ('http.path ^= "/a" &&', "expected a field (character 21)"),
        ('http.path ^= "/a" http.path == "b"', "expected && or || (character 19)"),
        ('http.path "/a"', "expected an operator"),
        ('http.path in "/a"', "http.path: does not support the operator in"),
        ('http.path >= "/a"', "http.path: does not support the operator >="),
        ("net.src.ip ~ 10.0.0.1", "net.src.ip: does not support the operator ~"),
        ("http.path == 7", "expected a text"),
        ('http.path.segments.len == "1"', "expected a whole number"),
        ('http.path.segments.len ^= "1"', "http.path.segments.len: does not support the operator ^="),
        ("http.path.segments.len == 0178", "0178: is not a whole number"),
        ("http.path.segments.len == 9223372036854775808", "9223372036854775808: is too large a number"),
        (f"http.path.segments.len == {'1' * 5000}", "11111111111111111111: is too large a number"),
        ("lower(http.path.segments.len) == 1", "http.path.segments.len: lower() is only for texts"),
        ("lower(net.src.ip) == 10.0.0.1", "net.src.ip: lower() is only for texts"),
        ('http.path == "/a', "cannot be read (character 14)"),
        ('! http.path == "/a"', "expected a parenthesis after !"),
        ('(http.path == "/a"', "expected )"),
        ('upper(http.path) == "/a"', "upper: unknown function"),
        ('http.path ~ "["', "invalid regex: '['"),
        ('http.path ~ "(?=a)"', "invalid regex: '(?=a)'"),
        ("net.src.ip in 10.0.0.1", "10.0.0.1: expected an address with == and !=, a network with in"),
        ("net.src.ip in 10.0.0.1/8", "10.0.0.1/8: is neither an address nor a network"),
        ("(" * 200 + 'http.path == "/"' + ")" * 200, "is nested too deeply"),
        ("lower(" * 200 + "http.path" + ")" * 200, "is not understood here"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_and_place(source: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source)
    assert message in str(caught.value)


WORDS = ["http.path", "http.headers.x_tenant", "net.src.ip", "==", "^=", "~", "in", "not", "&&", "||", "!", "(", ")"]


@given(st.lists(st.sampled_from([*WORDS, '"/a"', "10.0.0.0/8", "any", "r#", '"#', "7"]), max_size=12).map(" ".join))
def test_any_text_is_an_expression_or_refused(source: str) -> None:
    try:
        expression = compile_expression(source)
    except ExpressionError:
        return
    assert expression.holds(REQUEST, Taken()) in (True, False)
    assert expression.fields <= {*FIELDS, "http.headers.x_tenant"}
