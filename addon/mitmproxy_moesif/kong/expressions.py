"""Compiles the language of Kong's `expressions` router.

    expression = compile_expression('http.path ^= "/orders" && lower(http.headers.x_tenant) == "green"')
    expression.holds({"http.path": ("/orders/7",), "http.headers.x_tenant": ("Green",)}, Taken())

It supports the fields in `FIELDS` and those that start with one of `NAMED`, with all of Kong's operators for them;
other fields are refused by name. As in Kong, `||` binds tighter than `&&`, and `!` is only allowed before a
parenthesis. If a field has several values, all must meet the condition, or one with `any()`. A field without a value
never meets a condition, not even `!=`.

Source: the grammar and the operators' semantics in Kong's public atc-router (facts taken from it, no code).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mitmproxy_moesif.config.policy import Network
from mitmproxy_moesif.config.re2set import PatternError, compile_re2, re2_options
from mitmproxy_moesif.kong.patterns import of_all_alphabets

PATH, HOST, METHOD, PROTOCOL, SNI, ADDRESS = FIELDS = (
    "http.path",
    "http.host",
    "http.method",
    "net.protocol",
    "tls.sni",
    "net.src.ip",
)
PORT = "net.dst.port"
"""The requested port. Not supported in a route's own expression, where it means the port that Kong listens on."""

HEADER, QUERY, SEGMENT = NAMED = "http.headers.", "http.queries.", "http.path.segments."
"""Prefixes, followed by: a header's name in lower case, where `_` also matches `-`; a query parameter's name; the
number of a path segment, from 0, or a range (`1_2`)."""

SEGMENTS = f"{SEGMENT}len"
"""The number of path segments."""

MAX_DEPTH = 50
_MEMORY = 8 << 20

type Values = Mapping[str, tuple[str, ...]]
"""The values of a request, by field."""

type Condition = Callable[[Values, Taken], bool]


class ExpressionError(ValueError):
    """An expression is invalid or not supported. One line says why (`reason`) and where."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(f"{reason} (character {at})")
        self.reason = reason


@dataclass(slots=True)
class Taken:
    """The part of the path matched by the last path condition that held."""

    path: str | None = None


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. `fields`: those it uses. `starts`: matching paths start with one of these. `hosts`:
    matching hosts are one of these. None means any."""

    holds: Condition
    fields: frozenset[str]
    starts: frozenset[str] | None = None
    hosts: frozenset[str] | None = None


_TOKEN = re.compile(
    r"""(?:
      r\#"(?P<raw>(?:(?!"\#).)*)"\#
    | "(?P<text>(?:[^"\\]|\\["\\nrt])*)"
    | (?P<address>[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*(?:/\d+)?|\d+(?:\.\d+){3}(?:/\d+)?)
    | (?P<word>not\s+in\b|[A-Za-z][A-Za-z0-9_.]*|-?\d\w*)
    | (?P<sign>==|!=|\^=|=\^|>=|<=|&&|\|\||[~<>!()])
    )""",
    re.VERBOSE | re.DOTALL,
)
_LITERAL_START = re.compile(r"\^((?:[A-Za-z0-9/_~-](?![?*+{]))+)")
"""The literal start of a regular expression, if it has one."""

_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


@lru_cache(maxsize=1024)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


_TEXT_TESTS: Mapping[str, Callable[[str], Callable[[str], object]]] = {
    "==": lambda wanted: wanted.__eq__,
    "!=": lambda wanted: wanted.__ne__,
    "^=": lambda wanted: lambda value: value.startswith(wanted),
    "=^": lambda wanted: lambda value: value.endswith(wanted),
    "contains": lambda wanted: lambda value: wanted in value,
    "~": lambda wanted: compile_re2(of_all_alphabets(wanted), re2_options(_MEMORY)).search,
}
_ADDRESS_TESTS: Mapping[str, Callable[[Network], Callable[[str], object]]] = {
    "==": lambda wanted: lambda value: _address(value) == wanted.network_address,
    "!=": lambda wanted: lambda value: _address(value) != wanted.network_address,
    "in": lambda wanted: lambda value: _address(value) in wanted,
    "not in": lambda wanted: lambda value: _address(value) not in wanted,
}
_NUMBER_TESTS: Mapping[str, Callable[[int], Callable[[str], object]]] = {
    "==": lambda wanted: lambda value: int(value) == wanted,
    "!=": lambda wanted: lambda value: int(value) != wanted,
    ">=": lambda wanted: lambda value: int(value) >= wanted,
    "<=": lambda wanted: lambda value: int(value) <= wanted,
    ">": lambda wanted: lambda value: int(value) > wanted,
    "<": lambda wanted: lambda value: int(value) < wanted,
}
_TESTS: Mapping[str, Mapping[str, Callable[[Any], Callable[[str], object]]]] = {
    ADDRESS: _ADDRESS_TESTS,
    SEGMENTS: _NUMBER_TESTS,
    PORT: _NUMBER_TESTS,
}
_NUMBER = re.compile(r"(-?)(?:0(?P<octal>[0-7]+)|0x(?P<hexadecimal>[0-9A-Fa-f]+)|(?P<decimal>(?!0[0-7])[0-9]+))")
_BASES = {"octal": 8, "decimal": 10, "hexadecimal": 16}
_TAKING = ("==", "^=", "=^", "~")
"""The operators for which Kong knows which part of the path matched."""


def compile_expression(source: str, fields: Collection[str] = FIELDS) -> Expression:
    """Compile an expression. `fields` are the known ones, besides those with a prefix. Raises `ExpressionError`."""
    parser = _Parser(source, fields)
    expression = parser.expression(0)
    parser.end()
    return expression


class _Parser:
    """Recursive-descent parser for one expression; the next token is `kind` and `text`."""

    def __init__(self, source: str, fields: Collection[str]) -> None:
        self._source = source
        self._fields = fields
        self._at = self._end = 0
        self._advance()

    def expression(self, depth: int) -> Expression:
        """Alternatives joined by `&&`."""
        if depth > MAX_DEPTH:
            raise self._error("is nested too deeply")
        found = self._alternatives(depth)
        while self._took("&&"):
            found = _both(found, self._alternatives(depth))
        return found

    def end(self) -> None:
        if self.kind:
            raise self._error("expected && or ||")

    def _alternatives(self, depth: int) -> Expression:
        found = self._term(depth)
        while self._took("||"):
            found = _either(found, self._term(depth))
        return found

    def _term(self, depth: int) -> Expression:
        is_negated = self._took("!")
        if self._took("("):
            inner = self.expression(depth + 1)
            self._close()
            return _not(inner) if is_negated else inner
        if is_negated:
            raise self._error("expected a parenthesis after !")
        return self._predicate()

    def _predicate(self) -> Expression:
        name, functions = self._operand(0)
        operator = re.sub(r"\s+", " ", self._next("expected an operator", "sign", "word"))
        tests = _TESTS.get(name, _TEXT_TESTS)
        if operator not in tests:
            raise self._error(f"{name}: does not support the operator {operator}")
        if "lower" in functions and tests is not _TEXT_TESTS:
            raise self._error(f"{name}: lower() is only for texts")
        wanted = self._wanted(name, operator)
        try:
            test = tests[operator](wanted)
        except PatternError as error:
            raise self._error(f"invalid regex: {wanted!r} ({error})") from None
        return _predicate(name, functions, operator, wanted, test)

    def _operand(self, depth: int) -> tuple[str, frozenset[str]]:
        """A field, possibly inside functions."""
        name = self._next("expected a field", "word")
        if depth <= MAX_DEPTH and self._took("("):
            if name not in ("lower", "any"):
                raise self._error(f"{name}: unknown function; lower() and any() are supported")
            inner, functions = self._operand(depth + 1)
            self._close()
            return inner, functions | {name}
        begin, dot, _ = name.rpartition(".")
        if name in self._fields or begin + dot in NAMED:
            return name.lower() if begin + dot == HEADER else name, frozenset()
        raise self._error(f"{name}: is not understood here; {', '.join(FIELDS)} and {'*, '.join(NAMED)}* are")

    def _wanted(self, name: str, operator: str) -> object:
        if name == ADDRESS:
            return self._network(operator)
        return self._number() if name in (SEGMENTS, PORT) else self._literal()

    def _literal(self) -> str:
        kind = self.kind
        given = self._next("expected a text", "raw", "text")
        return given if kind == "raw" else _ESCAPED.sub(lambda found: _ESCAPES.get(found[1], found[1]), given)

    def _network(self, operator: str) -> Network:
        given = self._next("expected an address", "address")
        if ("/" in given) != (operator in ("in", "not in")):
            raise self._error(f"{given}: expected an address with == and !=, a network with in")
        try:
            return ipaddress.ip_network(given)
        except ValueError:
            raise self._error(f"{given}: is neither an address nor a network") from None

    def _number(self) -> int:
        given = self._next("expected a whole number", "word")
        found = _NUMBER.fullmatch(given)
        if found is None:
            raise self._error(f"{given:.20}: is not a whole number")
        base = str(found.lastgroup)
        with suppress(ValueError):  # Python refuses numbers with thousands of digits
            number = int(f"{found[1]}{found[base]}", _BASES[base])
            if -(2**63) <= number < 2**63:
                return number
        raise self._error(f"{given:.20}: is too large a number")

    # --- tokens

    def _advance(self) -> None:
        while self._source[self._end : self._end + 1].isspace():
            self._end += 1
        self._at = self._end
        found = _TOKEN.match(self._source, self._at)
        if found is None:
            if self._at < len(self._source):
                raise self._error("cannot be read")
            self.kind, self.text = "", ""
            return
        self.kind = str(found.lastgroup)
        self.text = found[self.kind]
        self._end = found.end()

    def _took(self, sign: str) -> bool:
        if self.kind != "sign" or self.text != sign:
            return False
        self._advance()
        return True

    def _close(self) -> None:
        if not self._took(")"):
            raise self._error("expected )")

    def _next(self, otherwise: str, *kinds: str) -> str:
        if self.kind not in kinds:
            raise self._error(otherwise)
        text = self.text
        self._advance()
        return text

    def _error(self, reason: str) -> ExpressionError:
        return ExpressionError(reason, self._at + 1)


def _predicate(
    name: str, functions: frozenset[str], operator: str, wanted: object, test: Callable[[str], object]
) -> Expression:
    is_lower, one_is_enough = "lower" in functions, "any" in functions
    takes = name == PATH and operator in _TAKING

    def holds(values: Values, taken: Taken) -> bool:
        given = values.get(name, ())
        for value in given:
            found = test(value.lower() if is_lower else value)
            if found and takes:
                taken.path = str(wanted) if found is True else found[0]  # type: ignore[index]  # the match of ~
            if bool(found) is one_is_enough:
                return one_is_enough
        return bool(given) and not one_is_enough

    only = frozenset((str(wanted),)) if not is_lower else None
    return Expression(
        holds,
        frozenset((name,)),
        starts=_starts(operator, str(wanted)) if name == PATH and not is_lower else None,
        hosts=only if name == HOST and operator == "==" else None,
    )


def _starts(operator: str, wanted: str) -> frozenset[str] | None:
    """Prefixes of all texts that meet this condition; None if unknown."""
    if operator in ("==", "^="):
        return frozenset((wanted,))
    found = _LITERAL_START.match(wanted) if operator == "~" and "|" not in wanted else None
    return None if found is None else frozenset((found[1],))


def _both(left: Expression, right: Expression) -> Expression:
    return Expression(
        lambda values, taken: left.holds(values, taken) and right.holds(values, taken),
        left.fields | right.fields,
        starts=left.starts if left.starts is not None else right.starts,
        hosts=left.hosts if left.hosts is not None else right.hosts,
    )


def _either(left: Expression, right: Expression) -> Expression:
    return Expression(
        lambda values, taken: left.holds(values, taken) or right.holds(values, taken),
        left.fields | right.fields,
        starts=_united(left.starts, right.starts),
        hosts=_united(left.hosts, right.hosts),
    )


def _united(left: frozenset[str] | None, right: frozenset[str] | None) -> frozenset[str] | None:
    return None if left is None or right is None else left | right


def _not(inner: Expression) -> Expression:
    return Expression(lambda values, taken: not inner.holds(values, taken), inner.fields)
