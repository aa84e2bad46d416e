"""Untrusted regular expressions, matched by RE2 in time linear in the text, many of them in one pass.

Linear is not enough if clients choose the text: at most `MAX_TEXT` bytes of a text are searched. If all expressions
together would exceed `BUDGET`, fewer are searched, but at least `MIN_TEXT`. That is logged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import re2

from mitmproxy_moesif.log import RateLimitedLog

MAX_TEXT = 65_536
"""Bytes of a text that are searched."""

MIN_TEXT = 1_024

BUDGET = 16_000_000
"""Maximum of the text's bytes times the weight of all expressions: some 0.1 s in the worst case."""

INSTRUCTIONS = 64
"""A program of up to this many instructions weighs 1, a larger one grows with the square of its size, like RE2's worst
case."""

_limited = RateLimitedLog()

type Source = str | bytes


class PatternError(ValueError):
    """An expression that cannot be compiled; the text is the compiler's reason."""


def re2_options(max_memory: int, **given: Any) -> Any:
    """RE2's options: `max_memory` limits the bytes of one program and its cached states, allocated only as needed."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = max_memory
    for name, value in given.items():
        setattr(options, name, value)
    return options


def compile_re2(source: Source, options: Any) -> Any:
    """The compiled expression. Raises `PatternError`."""
    try:
        return re2.compile(source, options)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0]
        raise PatternError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(error)) from None


def weight(compiled: Any) -> float:
    size: int = compiled.programsize
    return max(1.0, (size / INSTRUCTIONS) ** 2)


def cut(text: bytes, limit: int = MAX_TEXT) -> bytes:
    """A text truncated to `limit` bytes; a NUL is appended, so that `$` does not match at the cut."""
    return text if len(text) <= limit else text[:limit] + b"\0"


class _Group(NamedTuple):
    """Expressions that are matched together; `offset` is the number of the first. `automaton` is None if RE2 has not
    enough memory for all of them together."""

    offset: int
    compiled: tuple[Any, ...]
    automaton: Any | None


class RegexSet:
    """Tells which of many expressions match, numbered from 0 in the order given.

    Each is given as source and compiled with the same options. They match at the start of the text if the set is
    `anchored`, else anywhere. One automaton has at most `size` of them, and fewer if RE2 has not enough memory.
    """

    def __init__(
        self, patterns: Sequence[tuple[Source, Any]], options: Any, *, anchored: bool = False, size: int | None = None
    ) -> None:
        self._options = options
        self._anchored = anchored
        self._count = len(patterns)
        affordable = BUDGET / max(1.0, sum(weight(compiled) for _, compiled in patterns))
        self._limit = min(MAX_TEXT, max(MIN_TEXT, int(affordable)))
        size = size or len(patterns)
        starts = range(0, len(patterns), size or 1)
        self._groups = tuple(group for start in starts for group in self._halved(patterns[start : start + size], start))

    def matching(self, text: bytes) -> set[int]:
        if len(text) > self._limit:
            self._tell(len(text))
            text = cut(text, self._limit)
        hits: set[int] = set()
        for offset, compiled, automaton in self._groups:
            found = automaton.Match(text) if automaton else None
            if found:
                hits.update([offset - 1 + number for number in found if number])
            else:
                hits.update(offset + number for number, one in enumerate(compiled) if self._matches(one, text))
        return hits

    def _tell(self, length: int) -> None:
        _limited.warning(
            "cut",
            "moesif: of a text of %d bytes, %d were matched against %d patterns: no more may be",
            length,
            self._limit,
            self._count,
        )

    def _matches(self, compiled: Any, text: bytes) -> bool:
        return (compiled.match(text) if self._anchored else compiled.search(text)) is not None

    def _halved(self, patterns: Sequence[tuple[Source, Any]], offset: int) -> Iterator[_Group]:
        """One group if RE2 has enough memory for all, else the groups of both halves."""
        automaton = self._automaton([source for source, _ in patterns])
        if automaton or len(patterns) == 1:
            yield _Group(offset, tuple(compiled for _, compiled in patterns), automaton)
            return
        middle = len(patterns) // 2
        yield from self._halved(patterns[:middle], offset)
        yield from self._halved(patterns[middle:], offset + middle)

    def _automaton(self, sources: Sequence[Source]) -> Any | None:
        """All expressions as one `re2.Set`, after an empty one as number 0; None if they do not fit together.

        A set that runs out of memory while matching reports no match and no error. The empty expression always
        matches: if it is missing from the result, the result is invalid.
        """
        make = re2.Set.MatchSet if self._anchored else re2.Set.SearchSet
        automaton = make(self._options)
        automaton.Add("")
        try:
            for source in sources:
                automaton.Add(source)
            automaton.Compile()
        except re2.error:
            return None
        return automaton
