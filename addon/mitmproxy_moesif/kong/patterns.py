"""Regular expressions of a Kong file, as Kong's PCRE takes them.

RE2 does the work: its cost is linear in the path whatever the expression, and a set of thousands is tried in one pass.
What RE2 lacks (look-around, back-references, possessive quantifiers) goes to Python's `re`. That one may backtrack
for long; it is taken because the expressions are the operator's own, from the file that Kong itself runs on.

Text and expressions are bytes: without PCRE's UTF flag, as Kong runs it, `.` is one octet.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import re2

from mitmproxy_moesif.config.re2set import PatternError, RegexSet, compile_re2, re2_options

_NAMED_GROUP = re.compile(rb"(?<!\\)((?:\\\\)*)\(\?<(?=[A-Za-z_])")

REST_OF_PATH = b"(?<uri_postfix>.*)"
"""What Kong puts behind a route's expression, to know the part of the path that it leaves over."""

_MEMORY = 64 << 20
"""Bytes that RE2 may use for one set of expressions; taken only as needed."""


class Found(Protocol):
    """What of a match object is used here; both engines give it."""

    def end(self) -> int: ...
    def groups(self) -> tuple[bytes | None, ...]: ...
    def groupdict(self) -> dict[Any, bytes | None]: ...


class Pattern:
    """One compiled expression. Raises `PatternError`."""

    __slots__ = ("compiled", "is_linear", "source")

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.compiled, self.is_linear = _compile(source)

    def match(self, text: bytes) -> Found | None:
        """The match at the start of `text`."""
        return self._first(self.compiled.match, text)

    def search(self, text: bytes) -> Found | None:
        """The first match anywhere in `text`."""
        return self._first(self.compiled.search, text)

    def _first(self, attempt: Any, text: bytes) -> Found | None:
        found: Found | None = attempt(text)
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


def _options() -> Any:
    return re2_options(_MEMORY, encoding=re2.Options.Encoding.LATIN1)


def _compile(source: bytes) -> tuple[Any, bool]:
    """The compiled expression, and whether it is RE2's."""
    try:
        return compile_re2(source, _options()), True
    except PatternError:
        pass  # not an error yet: `re` knows more constructs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what `re` finds doubtful, it reads otherwise than PCRE
            return re.compile(_NAMED_GROUP.sub(rb"\1(?P<", source)), False
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise PatternError(str(error) or type(error).__name__) from None
