"""Many expressions tried in one pass, and in linear time."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config import re2set
from mitmproxy_moesif.config.re2set import (
    BUDGET,
    MAX_TEXT,
    MIN_TEXT,
    PatternError,
    RegexSet,
    compile_re2,
    re2_options,
    weight,
)
from mitmproxy_moesif.log import RateLimitedLog

OPTIONS = re2_options(8 << 20)


def regex_set(patterns: list[str], *, anchored: bool = False, size: int | None = 128) -> RegexSet:
    return RegexSet([(one, re2.compile(one)) for one in patterns], OPTIONS, anchored=anchored, size=size)


_PATTERNS = st.lists(
    st.from_regex(r"\^?[ab]{0,3}(\.\*|a\+|\[ab\]|b\?|\(a\|b\))?[ab]{0,2}\$?", fullmatch=True), max_size=12
)


@given(
    st.lists(_PATTERNS, max_size=30).map(lambda lists: [p for found in lists for p in found]),
    st.text("abc\n", max_size=12),
)
def test_scanning_finds_what_searching_one_by_one_finds(patterns: list[str], text: str) -> None:
    compiled = [re2.compile(pattern) for pattern in patterns]
    for size in (None, 1, 128):
        searched = {number for number, regex in enumerate(compiled) if regex.search(text)}
        assert regex_set(patterns, size=size).matching(text.encode()) == searched
        matched = {number for number, regex in enumerate(compiled) if regex.match(text)}
        assert regex_set(patterns, anchored=True, size=size).matching(text.encode()) == matched


@pytest.mark.parametrize("count", [1, 128, 129, 20_003])
def test_numbers_hold_over_several_automata(count: int) -> None:
    never_searched_alone = re2.compile("")
    found = RegexSet([(f"^/{n}$", never_searched_alone) for n in range(count)], OPTIONS, size=128)
    for number in {0, count // 2, count - 1}:
        assert found.matching(f"/{number}".encode()) == {number}
    assert found.matching(f"/{count}".encode()) == set()


class ExhaustedAutomaton:
    """re2's set when its memory runs out in the middle of a text: it reports no match, and no error."""

    def Match(self, _text: bytes) -> None:  # noqa: N802 - re2's name
        return None


def test_an_automaton_that_runs_out_of_memory_is_not_believed() -> None:
    found = regex_set(["a", "b", "c"])
    assert found.matching(b"zzz") == set()
    found._groups = tuple(group._replace(automaton=ExhaustedAutomaton()) for group in found._groups)
    assert found.matching(b"bca") == {0, 1, 2}
    assert found.matching(b"c") == {2}


@pytest.mark.parametrize("size", [None, 2])
def test_what_does_not_fit_into_one_automaton_is_halved(size: int | None) -> None:
    large = [rf"^{number}-\pL{{200}}$" for number in range(3)]
    found = regex_set(large, size=size)
    for number in range(3):
        assert found.matching(f"{number}-{'ж' * 200}".encode()) == {number}
        assert found.matching(f"{number}-{'ж' * 199}".encode()) == set()


def test_no_expressions_match_nothing() -> None:
    assert regex_set([], size=None).matching(b"abc") == regex_set([]).matching(b"") == set()


@pytest.fixture(autouse=True)
def _say_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(re2set, "_limited", RateLimitedLog(interval=0))


def test_of_a_long_text_only_the_beginning_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    found = regex_set(["^a", "b$", "c"])
    assert found.matching(b"a" + b"b" * MAX_TEXT + b"cb") == {0}  # nor is its end taken for the text's
    assert f"{MAX_TEXT} were matched against 3 patterns" in caplog.text


@pytest.mark.parametrize(("pattern", "count"), [("a.{0,500}bq", 1), ("foo.*bar", 3_000)])
def test_bytes_times_weight_stay_in_the_budget(pattern: str, count: int) -> None:
    compiled = [(f"{pattern}{number}", re2.compile(f"{pattern}{number}")) for number in range(count)]
    found = RegexSet(compiled, OPTIONS, size=128)
    assert MIN_TEXT < found._limit < MAX_TEXT
    assert found._limit * sum(weight(regex) for _, regex in compiled) <= BUDGET


def test_some_bytes_are_always_looked_at() -> None:
    assert regex_set([f"a.{{0,500}}bq{number}" for number in range(40)])._limit == MIN_TEXT


def test_a_thousand_plain_patterns_look_at_16_000_bytes() -> None:
    found = regex_set([f"^/v1/orders/{number}$" for number in range(1000)])
    assert found.matching(b"/v1/orders/7") == {7}
    assert found._limit == 16_000


@pytest.mark.parametrize("source", ["(", "(?<=a)b", "\ud800", rb"["])
def test_what_is_no_expression_is_refused_with_a_reason(source: str | bytes) -> None:
    with pytest.raises(PatternError, match=r"."):
        compile_re2(source, OPTIONS)
