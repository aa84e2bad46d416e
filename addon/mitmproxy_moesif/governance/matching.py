"""Finds which sets of conditions hold for a request, with untrusted regular expressions, in linear time.

All patterns for one field are compiled into a few automata (`re2.Set`), so that one pass over the field's text tests
all of them: 1,000 patterns cost some microseconds, while 1,000 searches cost more than a millisecond. Each set of
conditions is indexed by its rarest pattern, so that only sets with at least one true condition are examined.

Conditions on the body are separate: `ConditionIndex.evaluate` tests all others and returns the sets that depend only on
the body, so that the body is read only if it decides something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

from mitmproxy_moesif.config.re2set import PatternError, RegexSet, compile_re2, re2_options
from mitmproxy_moesif.event.json_reading import members
from mitmproxy_moesif.governance.model import ConditionSet, as_text, one_line

# Of sizes from 100 to 1000, small sets have the better worst case: the automaton of many patterns with gaps
# (`foo1.*bar1`) keeps reaching new states, and the cost of building a state grows with the number of patterns.
PATTERNS_PER_SET = 128

# Limit in bytes for the program and cached states of one pattern or set; a pattern that needs more is refused.
MAX_MEMORY = 8 << 20


class RequestView(Protocol):
    """A request as seen by conditions. If a field has several readings, one match is enough."""

    @property
    def verbs(self) -> Sequence[str]: ...

    @property
    def routes(self) -> Sequence[str]:
        """The path without the query."""

    @property
    def ip_address(self) -> str: ...

    def header_values(self, name: str, /) -> Sequence[str]:
        """The values of the header with this lower-case name; empty if there is none."""

    def body(self) -> object:
        """The parsed JSON body, or `{"query": text}` for an `application/graphql` body; None if there is neither."""


class FieldPath(NamedTuple):
    """A field named by a condition; `name` is the header's, in lower case, or the body's key."""

    source: Literal["verb", "route", "ip_address", "status", "header", "body"]
    name: str = ""


_PLAIN_PATHS = {
    "request.verb": FieldPath("verb"),
    "request.route": FieldPath("route"),
    "request.ip_address": FieldPath("ip_address"),
    "request.ip": FieldPath("ip_address"),
    "response.status": FieldPath("status"),
}


def parse_path(path: str) -> FieldPath | None:
    """The field for a condition's `path`; None if unknown."""
    if (name := path.removeprefix("request.headers.")) != path and name:
        return FieldPath("header", name.lower())
    if (name := path.removeprefix("request.body.")) != path and name:
        return FieldPath("body", name)
    return _PLAIN_PATHS.get(path)


class Term(NamedTuple):
    """One condition: search `regex` in `field`."""

    field: FieldPath
    pattern: str
    regex: Any


type TermSet = tuple[Term, ...]


def compile_sets(sets: Sequence[ConditionSet], *, with_status: bool = False) -> tuple[tuple[TermSet, ...], list[str]]:
    """Compile the sets' patterns. Returns the sets, and the unknown paths, which never match.

    A set with such a path is left out, since it cannot hold. An empty list means "always": one set without terms.
    Raises `PatternError` for the first pattern that re2 refuses.
    """
    if not sets:
        return ((),), []
    compiled: list[TermSet] = []
    unknown: list[str] = []
    for one in sets:
        terms = [(parse_path(c.path), c.path, c.value, _compiled(c.path, c.value)) for c in one.conditions]
        missing = [path for field, path, *_ in terms if not field or (field.source == "status" and not with_status)]
        unknown += missing
        if not missing:
            compiled.append(tuple(Term(field, pattern, regex) for field, _, pattern, regex in terms if field))
    return tuple(compiled), unknown


def _options() -> Any:
    return re2_options(MAX_MEMORY, never_capture=True)  # capturing groups would disable the fast automaton


def _compiled(path: str, pattern: str) -> Any:
    try:
        return compile_re2(pattern, _options())
    except PatternError as e:
        shown = f"the pattern {one_line(pattern, 200)!r} of {one_line(path, 200)!r}"
        raise PatternError(f"{shown} is not supported by re2: {one_line(str(e), 200)}") from e


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # header bytes that are not UTF-8, or a lone surrogate in JSON
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text).encode()


type _Key = tuple[FieldPath, int]


@dataclass(frozen=True, slots=True)
class HeldSet:
    """A set of conditions, which several `owners` may share: `inner` has those on the body, `outer` all others; the
    rarest comes first."""

    outer: tuple[_Key, ...]
    inner: tuple[_Key, ...]
    owners: tuple[int, ...]


class ConditionIndex:
    """The condition sets of many owners (rules or sampling entries), numbered in the order given."""

    def __init__(self, owners: Sequence[Sequence[TermSet]]) -> None:
        patterns = _by_field(term for sets in owners for terms in sets for term in terms)
        self._scanners = {
            field: RegexSet(list(found.items()), _options(), size=PATTERNS_PER_SET) for field, found in patterns.items()
        }
        self.header_names = frozenset(field.name for field in patterns if field.source == "header")
        self._always: frozenset[int] = frozenset()
        self._body_only: list[HeldSet] = []
        self._keyed: dict[FieldPath, dict[int, list[HeldSet]]] = {}
        numbers = {field: {pattern: n for n, pattern in enumerate(found)} for field, found in patterns.items()}
        for held in _held_sets(owners, numbers):
            if held.outer:
                field, number = held.outer[0]
                self._keyed.setdefault(field, {}).setdefault(number, []).append(held)
            elif held.inner:
                self._body_only.append(held)
            else:
                self._always = frozenset(held.owners)

    def evaluate(self, view: RequestView, status: int | None = None) -> tuple[set[int], list[HeldSet]]:
        """The owners that match regardless of the body, and the sets with only their body conditions left to test.

        An owner can be in both; then the body does not matter for it."""
        facts = _Facts(self._scanners, partial(_request_texts, view, status))
        matched = set(self._always)
        undecided = list(self._body_only)
        for held in _holding(self._keyed, facts, "outer"):
            if held.inner:
                undecided.append(held)
            else:
                matched.update(held.owners)
        return matched, undecided

    def decide_by_body(self, undecided: Sequence[HeldSet], body: object) -> set[int]:
        """The owners of the sets whose body conditions all hold for the same operation."""
        waiting: dict[FieldPath, dict[int, list[HeldSet]]] = {}
        for held in undecided:
            field, number = held.inner[0]
            waiting.setdefault(field, {}).setdefault(number, []).append(held)
        matched: set[int] = set()
        for operation in _operations(body) if waiting else ():
            for held in _holding(waiting, _Facts(self._scanners, partial(_body_texts, operation)), "inner"):
                matched.update(held.owners)
        return matched


def _held_sets(
    owners: Sequence[Sequence[TermSet]], numbers: Mapping[FieldPath, Mapping[str, int]]
) -> Iterator[HeldSet]:
    by_keys: dict[frozenset[_Key], dict[int, None]] = {}
    for owner, sets in enumerate(owners):
        for terms in sets:
            keys = frozenset((term.field, numbers[term.field][term.pattern]) for term in terms)
            by_keys.setdefault(keys, {})[owner] = None
    frequency = Counter(key for keys in by_keys for key in keys)
    for keys, found in by_keys.items():
        ordered = sorted(keys, key=lambda key: (frequency[key], key))
        inner = tuple(key for key in ordered if key[0].source == "body")
        outer = tuple(key for key in ordered if key[0].source != "body")
        yield HeldSet(outer, inner, tuple(found))


def _holding(
    keyed: Mapping[FieldPath, Mapping[int, Sequence[HeldSet]]], facts: _Facts, part: Literal["outer", "inner"]
) -> Iterator[HeldSet]:
    """The sets whose `part` holds, found by its first condition."""
    for field, by_number in keyed.items():
        for number in facts.hits(field):
            for held in by_number.get(number, ()):
                keys = held.outer if part == "outer" else held.inner
                if len(keys) == 1 or all(n in facts.hits(f) for f, n in keys[1:]):
                    yield held


def _by_field(terms: Iterator[Term]) -> dict[FieldPath, dict[str, Any]]:
    found: dict[FieldPath, dict[str, Any]] = {}
    for term in terms:
        found.setdefault(term.field, {})[term.pattern] = term.regex
    return found


class _Facts:
    """The patterns that match each field; a field is scanned on first use.

    `texts` returns a field's readings; none for a missing field, which no pattern matches.
    """

    def __init__(self, scanners: Mapping[FieldPath, RegexSet], texts: Callable[[FieldPath], Iterable[str]]) -> None:
        self._scanners = scanners
        self._texts = texts
        self._hits: dict[FieldPath, Set[int]] = {}

    def hits(self, field: FieldPath) -> Set[int]:
        found = self._hits.get(field)
        if found is None:
            matching = self._scanners[field].matching
            found = self._hits[field] = set().union(*(matching(_encoded(text)) for text in self._texts(field)))
        return found


def _request_texts(view: RequestView, status: int | None, field: FieldPath) -> Iterable[str]:
    match field.source:
        case "header":
            return view.header_values(field.name)
        case "verb":
            return view.verbs
        case "route":
            return view.routes
        case "ip_address":
            return (view.ip_address,)
        case _:
            return () if status is None else (str(status),)


def _body_texts(operation: Mapping[str, object], field: FieldPath) -> Iterable[str]:
    return (text for value in _at(operation, field.name) if (text := as_text(value)) is not None)


def _operations(body: object) -> Iterator[Mapping[str, object]]:
    """The body if it is a JSON object, or the objects in its array: GraphQL sends batches of operations as arrays."""
    for operation in body if isinstance(body, list) else (body,):
        if isinstance(operation, dict) and operation:
            yield operation


def _at(operation: Mapping[str, object], key: str) -> Iterator[object]:
    """All values under `key`, and under the path in nested objects that its dots denote."""
    yield from members(operation, key)
    if "." in key:
        found: list[object] = [operation]
        for step in key.split("."):
            found = [value for one in found for value in members(one, step)]
        yield from found
