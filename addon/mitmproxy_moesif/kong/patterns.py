"""Regular expressions of a Kong file, as Kong's PCRE takes them; those inside of its expressions, as its Rust does.

RE2 does the work: its cost is linear in the path whatever the expression, and a set of thousands is tried in one pass.
What RE2 lacks (look-around, back-references, possessive quantifiers) goes to PCRE2, which backtracks: after `STEPS` it
gives up, and the expression does not match. Kong's own gives up too, later.

Text and expressions are bytes: without PCRE's UTF flag, as Kong runs it, `.` is one octet.
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
"""What Kong puts behind a route's expression, to know the part of the path that it leaves over."""

STEPS = 50_000
"""Of PCRE2 in one attempt: at most about a millisecond."""

_MEMORY = 64 << 20
"""Bytes that RE2 may use for one set of expressions; taken only as needed."""

_limited = RateLimitedLog()


class Found(Protocol):
    """What of a match object is used here; both engines give it."""

    def groups(self) -> tuple[bytes | None, ...]: ...


class Pattern:
    """One compiled expression. Raises `PatternError`."""

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
            _limited.warning("steps", "moesif: %r was given up on a request: no match", self.source[:200])
            return None
        if found is None and self.is_linear and text.endswith(b"\n"):
            found = attempt(text[:-1])  # PCRE's `$` also stands before a last newline, RE2's does not
        return found


class PatternSet:
    """Which of many expressions match at the start of a text, without trying them one by one.

    `matching` gives ascending positions in the sequence that the set was made of.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._linear = [position for position, pattern in enumerate(patterns) if pattern.is_linear]
        self._others = [(position, pattern) for position, pattern in enumerate(patterns) if not pattern.is_linear]
        linear = [(patterns[position].source, patterns[position].compiled) for position in self._linear]
        self._set = RegexSet(linear, _options(), anchored=True)

    def matching(self, text: bytes) -> list[int]:
        hits = self._set.matching(text)
        if text.endswith(b"\n"):
            hits |= self._set.matching(text[:-1])  # as in Pattern
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
    r"""An expression of Rust's for RE2: `\w`, `\d` and `\s` are of all alphabets there, of ASCII here.

    `\b`, and `\W` and `\S` in brackets, stay those of ASCII.
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
    """The compiled expression, what searches by it, and whether it is RE2's."""
    try:
        linear = compile_re2(source, _options())
    except PatternError:
        pass  # not an error yet: PCRE2 knows more constructs
    else:
        return linear, linear.search, True
    limits = b"(*LIMIT_MATCH=%d)" % STEPS
    try:
        # PCRE2's own search counts its steps anew at each place in the text; this one does not.
        searching = pcre2.compile(limits + b"(?s:.*?)(?:" + source + rb"\E)")
        return pcre2.compile(limits + source), searching.match, False
    except pcre2.PatternError as error:
        raise PatternError(str(error)) from None
