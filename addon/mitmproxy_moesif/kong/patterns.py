"""Regular expressions of a Kong file: PCRE in routes as in Kong, Rust's syntax within router expressions.

RE2 does the work: its time is linear in the path's length for any expression, and it searches a set of thousands in one
pass. What RE2 lacks (look-around, back-references, possessive quantifiers) goes to PCRE2, which backtracks: after
`STEPS` it gives up, and the expression does not match. Kong's PCRE gives up too, but later.

Text and expressions are bytes: Kong uses PCRE without its UTF flag, so `.` matches one byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import pcre2
import re2

from mitmproxy_moesif.config.re2set import PatternError, RegexSet, compile_re2, cut, re2_options
from mitmproxy_moesif.log import RateLimitedLog

REST_OF_PATH = b"(?<uri_postfix>.*)"
"""Kong appends this to a route's expression to capture the rest of the path."""

STEPS = 50_000
"""PCRE2's limit for one match: about a millisecond at most."""

_MEMORY = 64 << 20
"""Maximum bytes of memory that RE2 may use for one set of expressions; allocated only as needed."""

_limited = RateLimitedLog()


class Found(Protocol):
    """The part of a match object that is used here; both engines have it."""

    def groups(self) -> tuple[bytes | None, ...]: ...


class Pattern:
    """One compiled expression. Raises `PatternError` if it is invalid."""

    __slots__ = ("_search", "compiled", "is_linear", "source")

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.compiled, self._search, self.is_linear = _compile(source)

    def match(self, text: bytes) -> Found | None:
        """The match at the start of `text`."""
        return self._first(self.compiled.match, cut(text))

    def search(self, text: bytes) -> Found | None:
        """The first match anywhere in `text`."""
        return self._first(self._search, cut(text))

    def _first(self, attempt: Any, text: bytes) -> Found | None:
        try:
            found: Found | None = attempt(text)
        except pcre2.LibraryError:
            _limited.warning("steps", "moesif: gave up matching %r on a request: no match", self.source[:200])
            return None
        if found is None and self.is_linear and text.endswith(b"\n"):
            found = attempt(text[:-1])  # PCRE's `$` also matches before a final newline, RE2's does not
        return found


class PatternSet:
    """Finds which of many expressions match at the start of a text, without trying each.

    `matching` returns positions in the given sequence, ascending.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._linear = [position for position, pattern in enumerate(patterns) if pattern.is_linear]
        self._others = [(position, pattern) for position, pattern in enumerate(patterns) if not pattern.is_linear]
        linear = [(patterns[position].source, patterns[position].compiled) for position in self._linear]
        self._set = RegexSet(linear, _options(), anchored=True)

    def matching(self, text: bytes) -> list[int]:
        hits = self._set.matching(text)
        if text.endswith(b"\n"):
            hits |= self._set.matching(text[:-1])  # for `$`, as in Pattern
        found = [position for position, pattern in self._others if pattern.match(text)]
        return sorted([*found, *(self._linear[hit] for hit in hits)])


_OF_ALL_ALPHABETS = {
    "d": r"\p{Nd}",
    "D": r"\P{Nd}",
    "w": r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}",
    "s": r"\s\x{85}\p{Z}",
}
_ESCAPE_OR_BRACKET = re.compile(r"\\(?P<letter>.)|\[:\^?\w+:\]|(?P<opening>\[\^?\]?)|(?P<closing>\])", re.DOTALL)


def of_all_alphabets(source: str) -> str:
    r"""Convert an expression from Rust's syntax to RE2's: in Rust, `\w`, `\d` and `\s` are Unicode-aware.

    `\b`, and `\W` and `\S` in brackets, stay limited to ASCII.
    """
    in_brackets = False

    def written(found: re.Match[str]) -> str:
        nonlocal in_brackets
        if found["letter"] is None:
            in_brackets = (in_brackets or found["opening"] is not None) and found["closing"] is None
            return found[0]
        letter = found["letter"]
        if letter in _OF_ALL_ALPHABETS:
            members = _OF_ALL_ALPHABETS[letter]
            return members if in_brackets else f"[{members}]"
        return f"[^{_OF_ALL_ALPHABETS[letter.lower()]}]" if letter in "WS" and not in_brackets else found[0]

    return _ESCAPE_OR_BRACKET.sub(written, source)


def _options() -> Any:
    return re2_options(_MEMORY, encoding=re2.Options.Encoding.LATIN1)


def _compile(source: bytes) -> tuple[Any, Any, bool]:
    """The compiled expression, its search function, and whether RE2 is used."""
    try:
        linear = compile_re2(source, _options())
    except PatternError:
        pass  # not an error yet: PCRE2 supports more constructs
    else:
        return linear, linear.search, True
    limits = b"(*LIMIT_MATCH=%d)" % STEPS
    try:
        # PCRE2's own search restarts the step count at each position in the text; this does not.
        searching = pcre2.compile(limits + b"(?s:.*?)(?:" + source + rb"\E)")
        return pcre2.compile(limits + source), searching.match, False
    except pcre2.PatternError as error:
        raise PatternError(str(error)) from None
