"""Regular expressions of a Kong file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.re2set import PatternError
from mitmproxy_moesif.kong import patterns
from mitmproxy_moesif.kong.patterns import Pattern, PatternSet
from mitmproxy_moesif.log import RateLimitedLog

SOURCES = [
    rb"/orders/\d+$",
    rb"/orders/(?<id>[a-z]+)",
    rb"/users/[^/]+/cards",
    rb"/a.b$",
    rb"/v\d/.*",
    rb"/a|/orders",
    rb"/(?!orders)",
    rb"/(?=users)[a-z]+",
    rb"(?i)/ORDERS",
    rb"",
    rb"/(.)\1",
]
TEXTS = st.one_of(
    st.sampled_from([b"/orders/17", b"/orders/abc", b"/users/4/cards/9", b"/aXb", b"/v1/x", b"/aa", b"/orders/17\n"]),
    st.text(alphabet="/aborders17uv.\n\u00e9", max_size=12).map(str.encode),
)


def test_both_engines_name_groups_as_pcre_does() -> None:
    for source in (rb"/(?<id>\d+)", rb"/(?!x)(?<id>\d+)", rb"/(?!x)\\(?<id>\d+)"):
        found = Pattern(source).match(b"/17" if b"\\\\" not in source else b"/\\17")
        assert found is not None
        assert found.groups() == (b"17",)


def test_an_escaped_parenthesis_starts_no_group() -> None:
    assert Pattern(rb"/(?!x)\(?<id>").match(b"/(<id>")
    assert Pattern(rb"/(?!x)\(?<id>").match(b"/<id>")


def test_look_around_works_though_re2_has_none() -> None:
    pattern = Pattern(rb"/(?!admin)[a-z]+")
    assert not pattern.is_linear
    assert pattern.match(b"/orders")
    assert not pattern.match(b"/admin")


def test_the_start_is_anchored_for_match_and_not_for_search() -> None:
    assert not Pattern(rb"orders").match(b"/orders")
    assert Pattern(rb"orders").search(b"/orders")


def test_an_octet_is_one_character() -> None:
    assert Pattern(rb"/caf..$").match("/café".encode())
    assert Pattern(rb"/.$").match(b"/\xff")
    assert Pattern("/café?$".encode()).match(b"/caf\xc3")


@pytest.mark.parametrize("source", [rb"/a$", rb"/(?=a)a$"])
def test_a_dollar_stands_before_a_last_newline_too(source: bytes) -> None:
    pattern = Pattern(source)
    assert pattern.match(b"/a\n")
    assert not pattern.match(b"/a\n\n")
    assert not pattern.match(b"/a\nb")
    assert PatternSet([pattern]).matching(b"/a\n") == [0]


@pytest.mark.parametrize(
    "source", [rb"/(?!static)(?:[a-z]+)+$", rb"/(?=(a+)+$)", rb"/(a*)*\1b", rb"(?<!x)(.*)(.*)(.*)(.*)=$"]
)
def test_an_expression_that_backtracks_is_given_up(
    source: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bound each of these holds everything up for longer than anybody waits."""
    monkeypatch.setattr(patterns, "_limited", RateLimitedLog(interval=0))
    pattern = Pattern(source)
    for text in (b"/" + b"a" * 40 + b"!", b"/" + b"a" * 1_000_000):
        assert not pattern.match(text)
        assert not pattern.search(text)
        assert PatternSet([pattern]).matching(text) == []
    assert "gave up matching" in caplog.text


def test_a_search_beyond_the_first_place_counts_no_steps_anew() -> None:
    assert Pattern(rb"(?<=x)b|(?<=y)c").search(b"axb" + b"a" * 40)
    assert not Pattern(rb"(?!b)(?:a+)+$").search(b"a" * 60_000 + b"!")


@pytest.mark.parametrize("source", [b"/[", b"/(", b"/a(?<", b"/\\", b"/*{2}+*", b"/[[:nope:]](?=x)"])
def test_what_is_no_expression_is_refused_with_a_reason(source: bytes) -> None:
    with pytest.raises(PatternError, match=r"."):
        Pattern(source)


@given(st.lists(st.sampled_from(SOURCES), max_size=8), TEXTS)
def test_a_set_finds_what_its_expressions_find_one_by_one(sources: list[bytes], text: bytes) -> None:
    made = [Pattern(source) for source in sources]
    assert PatternSet(made).matching(text) == [number for number, pattern in enumerate(made) if pattern.match(text)]


@pytest.mark.parametrize("memory", [2000, 5000, 20_000, 100_000])
def test_a_set_too_big_for_the_memory_bound_finds_the_same(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    made = [Pattern(rb"/[^/]+/[a-z]+/x%d$" % number) for number in range(40)]
    monkeypatch.setattr(patterns, "_MEMORY", memory)
    narrow = PatternSet(made)
    assert narrow.matching(b"/q/abc/x17") == [17]
    assert narrow.matching(b"/q/abc/x99") == []


def test_a_set_that_fails_without_saying_so_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Pattern(rb"/x%d$" % number) for number in range(3)]
    monkeypatch.setattr("re2.Set.Match", lambda self, text: None)  # what RE2 gives when its memory does not suffice
    assert PatternSet(made).matching(b"/x2") == [2]
