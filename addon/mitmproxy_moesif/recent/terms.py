"""The filter language: terms that must all hold.

    status:5xx user:ada method:post path:/orders state:dropped not company:acme "free text"

`name:value` tests a field, `name:one,another` matches either value, and `not` in front negates a term. Text without a
name is searched for in all fields. Quotes are for text with spaces. Case is ignored, and `*` matches anything. Numbers
may be compared: `ms:>500`, `status:400-499`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Any, Final, get_args

from mitmproxy_moesif.recent.api import State

MAX_LENGTH: Final = 1000
WAITING: Final = ("captured", "built", "stored", "retrying")
STATES: Final = (*get_args(State.__value__), "waiting")
SEARCHED: Final = (
    "method",
    "host",
    "path",
    "route",
    "service",
    "user",
    "company",
    "id",
    "cause",
    "error",
    "blocked_by",
)

COMBINED: Final = (
    'name:one,another matches either; not negates a term; quotes are for spaces and colons: "a b", "http://"'
)

type Predicate = Callable[[Mapping[str, Any]], bool]
"""A test of a `Row`."""

_INSIDE: Final = r"(?:[^\"\\]|\\.)*+"
_TERM: Final = re.compile(rf'(?:[^\s"]++|"{_INSIDE}"?)++', re.DOTALL)
_QUOTED: Final = re.compile(rf'"({_INSIDE})("?)', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_NUMBER: Final = r"(\d{1,15}(?:\.\d{1,6})?)"
_COMPARED: Final = re.compile(rf"(>=|<=|>|<|=)?{_NUMBER}|{_NUMBER}-{_NUMBER}")
_CLASS: Final = re.compile(r"([1-5])xx")


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in a filter, and its position in characters, from 0."""

    at: int
    text: str


class FilterError(ValueError):
    """A filter is invalid; `problems` has all errors."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.text} (at character {problem.at + 1})" for problem in problems))


def parse(text: str) -> Predicate:
    """The filter as a predicate; an empty one matches everything. Raises `FilterError`."""
    if len(text) > MAX_LENGTH:
        raise FilterError([Problem(MAX_LENGTH, f"a filter may have at most {MAX_LENGTH} characters")])
    problems: list[Problem] = []
    predicates: list[Predicate] = []
    negated: int | None = None
    for match in _TERM.finditer(text):
        at, word = match.start(), match[0]
        if word.lower() == "not" and negated is None:
            negated = at
            continue
        try:
            predicate = _term(word)
        except ValueError as error:
            problems.append(Problem(at, str(error)))
        else:
            predicates.append(predicate if negated is None else _opposite(predicate))
        negated = None
    if negated is not None:
        problems.append(Problem(negated, "`not` must come before a term"))
    if problems:
        raise FilterError(problems)
    return lambda row: all(predicate(row) for predicate in predicates)


def _term(word: str) -> Predicate:
    name, colon, value = word.partition(":")
    if not colon or '"' in name:
        return _anywhere(_unquoted(word))
    field = FIELDS.get(name.lower())
    if field is None:
        raise ValueError(f"there is no term `{name}:`; there are {', '.join(FIELDS)}")
    key, compiled, _ = field
    alternatives = [value] if '"' in value else value.split(",")
    tests = [compiled(name.lower(), _unquoted(alternative)) for alternative in alternatives]
    return lambda row: any(test(row[key]) for test in tests)


def _unquoted(text: str) -> str:
    """Remove quotes. Raises `ValueError` for an unclosed quote or an empty value."""
    if any(not closing for _, closing in _QUOTED.findall(text)):
        raise ValueError("a quote is not closed")
    plain = _QUOTED.sub(lambda match: _ESCAPED.sub(lambda escaped: escaped[1], match[1]), text)
    if not plain.strip():
        raise ValueError("a value is missing")
    return plain


def _opposite(predicate: Predicate) -> Predicate:
    return lambda row: not predicate(row)


def _anywhere(text: str) -> Predicate:
    wanted = text.lower()
    return lambda row: any(wanted in str(row[name]).lower() for name in SEARCHED if row[name] is not None)


type Test = Callable[[Any], bool]
"""A test of one field's value."""


def _text(_name: str, value: str) -> Test:
    """A test of the whole value, where `*` matches anything. `none` means no value."""
    if value.lower() == "none":
        return lambda found: found is None
    pattern = re.compile(translate(value.lower().replace("[", "[[]").replace("?", "[?]")))
    return lambda found: found is not None and pattern.match(str(found).lower()) is not None


def _prefix(name: str, value: str) -> Test:
    """A test of the value's start; with `*`, of the whole value."""
    return _text(name, value if "*" in value else f"{value}*")


def _number(name: str, value: str) -> Test:
    if value.lower() == "none":
        return lambda found: found is None
    match = _COMPARED.fullmatch(value)
    if match is None:
        such = "`5xx`, `>=400`, `400-499`" if name == "status" else "`>500`, `100-200`"
        raise ValueError(f"`{name}:` takes a number, {such} or none, not `{value}`")
    if match[3] is not None:
        low, high = float(match[3]), float(match[4])
        return lambda found: found is not None and low <= found <= high
    compare, wanted = _COMPARISONS[match[1] or "="], float(match[2])
    return lambda found: found is not None and compare(found, wanted)


_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "=": lambda found, wanted: found == wanted,
    ">": lambda found, wanted: found > wanted,
    "<": lambda found, wanted: found < wanted,
    ">=": lambda found, wanted: found >= wanted,
    "<=": lambda found, wanted: found <= wanted,
}


def _status(name: str, value: str) -> Test:
    """A number as above, or a class such as `5xx`."""
    if (match := _CLASS.fullmatch(value.lower())) is None:
        return _number(name, value)
    hundred = int(match[1])
    return lambda found: found is not None and found // 100 == hundred


def _state(name: str, value: str) -> Test:
    wanted = value.lower()
    if wanted not in STATES:
        raise ValueError(f"`{name}:` takes {', '.join(STATES)}, not `{value}`")
    return lambda found: found == wanted or (wanted == "waiting" and found in WAITING)


FIELDS: Final[Mapping[str, tuple[str, Callable[[str, str], Test], str]]] = {
    "status": ("status", _status, "404, 5xx, 400-499, >=400, none"),
    "method": ("method", _text, "post"),
    "host": ("host", _text, "api.example.com, *.example.com"),
    "path": ("path", _prefix, "/orders, */items"),
    "route": ("route", _text, "Kong's name of the route"),
    "service": ("service", _text, "Kong's name of the service"),
    "instance": ("instance", _text, "the instance that applied"),
    "user": ("user", _text, "ada, a*, none"),
    "company": ("company", _text, "acme, none"),
    "state": ("state", _state, ", ".join(STATES)),
    "cause": ("cause", _text, "sampled_out, spool_full, *"),
    "blocked": ("blocked_by", _text, "the id of the rule, *"),
    "error": ("error", _text, "client_disconnected, *"),
    "ms": ("ms", _number, ">500, 100-200"),
    "size": ("response_bytes", _number, "bytes of the response: >10000"),
    "id": ("id", _text, "the transaction id"),
}
"""Each term: the field of a `Row`, the parser of its value, and examples."""
