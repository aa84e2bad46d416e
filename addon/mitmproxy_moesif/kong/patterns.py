"""Regular expressions of a Kong file, as Kong's PCRE takes them.

RE2 does the work: its cost is linear in the path whatever the expression, and a set of thousands is tried in one pass.
What RE2 lacks (look-around, back-references, possessive quantifiers) goes to Python's `re`. That one may backtrack
for long; it is taken because the expressions are the operator's own, from the file that Kong itself runs on.

Text and expressions are bytes: without PCRE's UTF flag, as Kong runs it, `.` is one octet.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import re2

_NAMED_GROUP = re.compile(rb"(?<!\\)((?:\\\\)*)\(\?<(?=[A-Za-z_])")

REST_OF_PATH = b"(?<uri_postfix>.*)"
"""What Kong puts behind a route's expression, to know the part of the path that it leaves over."""

_MEMORY = 64 << 20
"""Bytes that RE2 may use for one set of expressions; taken only as needed."""


class PatternError(ValueError):
    """An expression that cannot be compiled; the text is the compiler's reason."""


class Found(Protocol):
    """What of a match object is used here; both engines give it."""

    def end(self) -> int: ...
    def groups(self) -> tuple[bytes | None, ...]: ...
    def groupdict(self) -> dict[Any, bytes | None]: ...


class Pattern:
    """One compiled expression. Raises `PatternError`."""

    __slots__ = ("_compiled", "is_linear", "source")

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._compiled, self.is_linear = _compile(source)

    def match(self, text: bytes) -> Found | None:
        """The match at the start of `text`."""
        return self._first(self._compiled.match, text)

    def search(self, text: bytes) -> Found | None:
        """The first match anywhere in `text`."""
        return self._first(self._compiled.search, text)

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
        numbered = list(enumerate(patterns))
        self._sets = list(_linear_sets([(position, pattern) for position, pattern in numbered if pattern.is_linear]))
        self._others = [(position, pattern) for position, pattern in numbered if not pattern.is_linear]

    def matching(self, text: bytes) -> list[int]:
        found = [position for position, pattern in self._others if pattern.match(text)]
        for linear in self._sets:
            found += linear.matching(text)
        return sorted(found)


type _Numbered = list[tuple[int, Pattern]]


def _linear_sets(patterns: _Numbered) -> Iterator[_LinearSet]:
    """As few sets as the memory bound allows: one that is too big is halved."""
    if not patterns:
        return
    try:
        yield _LinearSet(patterns)
    except re2.error:
        middle = (len(patterns) + 1) // 2
        yield from _linear_sets(patterns[:middle])
        yield from _linear_sets(patterns[middle:])


class _LinearSet:
    """RE2's set. Where it runs out of memory, it finds nothing and does not say so: a last expression, one that matches
    everything, tells that from a text that nothing matches."""

    def __init__(self, patterns: _Numbered) -> None:
        self._patterns = patterns
        self._compiled: Any = None
        compiled = re2.Set.MatchSet(_options())
        for _, pattern in patterns:
            compiled.Add(pattern.source)
        compiled.Add(b"")
        try:
            compiled.Compile()
        except re2.error:
            if len(patterns) > 1:
                raise
        else:
            self._compiled = compiled

    def matching(self, text: bytes) -> Iterable[int]:
        hits = set(self._hits(text))
        if text.endswith(b"\n"):
            hits.update(self._hits(text[:-1]))  # as in Pattern
        last = len(self._patterns)
        if last not in hits:
            return [position for position, pattern in self._patterns if pattern.match(text)]
        return [self._patterns[hit][0] for hit in hits if hit != last]

    def _hits(self, text: bytes) -> Iterable[int]:
        return () if self._compiled is None else self._compiled.Match(text) or ()


def _options() -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = _MEMORY
    return options


def _compile(source: bytes) -> tuple[Any, bool]:
    """The compiled expression, and whether it is RE2's."""
    try:
        return re2.compile(source, _options()), True
    except re2.error:
        pass  # not an error yet: `re` knows more constructs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what `re` finds doubtful, it reads otherwise than PCRE
            return re.compile(_NAMED_GROUP.sub(rb"\1(?P<", source)), False
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise PatternError(str(error) or type(error).__name__) from None
