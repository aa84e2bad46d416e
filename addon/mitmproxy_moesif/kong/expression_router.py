"""Finds the route of a request, in any flavour of Kong's router.

A table with an expression always has the flavour `expressions`: routes with an expression come first, by priority, then
by descending id. The others follow as in compatible.py. If paths must start with known text, or hosts must be known
ones, only the routes for such paths or hosts are tried.

Source: Kong's public source for how `protocols` are added to expressions and how these are ordered (facts taken from
it, no code).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from mitmproxy_moesif.kong.compatible import Part, name_and_port, parts_of
from mitmproxy_moesif.kong.entities import Flavor, Route
from mitmproxy_moesif.kong.expressions import (
    ADDRESS,
    FIELDS,
    HEADER,
    HOST,
    METHOD,
    PATH,
    PORT,
    PROTOCOL,
    QUERY,
    SEGMENT,
    SEGMENTS,
    SNI,
    Expression,
    ExpressionError,
    Taken,
    compile_expression,
)
from mitmproxy_moesif.kong.indexes import ByValue, Entries, PrefixTree, values_of
from mitmproxy_moesif.kong.normalize import exact_text, from_text, parameters, request_path, segments, some_of
from mitmproxy_moesif.kong.router import (
    REMEMBERED,
    Match,
    Router,
    is_remembered,
    make_match,
    takes_part,
    without_leading_dots,
)

_BOTH = frozenset(("http", "https"))
_SCHEMES = {"grpc": "http", "grpcs": "https", "ws": "http", "wss": "https"}
"""The scheme of a protocol's requests, where its name differs."""

_EXPRESSIONS_FIRST = 0xFF << 56

_PORTS = {"https": "443"}
"""The port of a request whose Host header has none; the port on which Kong listens is not known."""


class _Candidate(NamedTuple):
    """A route to try; candidates are tried in descending order."""

    priority: int
    id: str
    route: Route
    expression: Expression
    schemes: frozenset[str]


class ExpressionRouter:
    """Routes requests over `routes`, in any flavour.

    As in Kong, an invalid expression is left out, and so are paths of a route whose regular expressions are invalid in
    Rust's syntax, which the newer flavours use. `not_understood` has a line for each.
    """

    def __init__(self, routes: Sequence[Route], flavor: Flavor = "traditional") -> None:
        has_expressions = any(route.expression is not None for route in routes)
        self._traditional = Router(routes) if flavor == "traditional" and not has_expressions else None
        self.not_understood: list[str] = []
        candidates = self._candidates(routes, flavor) if self._traditional is None else ()
        self._ranked = sorted(candidates, key=lambda candidate: candidate[:2], reverse=True)
        self._fields = sorted(set[str]().union(*(candidate.expression.fields for candidate in self._ranked)))
        self._headers = [(field, field.removeprefix(HEADER)) for field in self._fields if field.startswith(HEADER)]
        self._parameters = {field.removeprefix(QUERY): field for field in self._fields if field.startswith(QUERY)}
        self._segments = [field for field in self._fields if field.startswith(SEGMENT)]
        self._starts, self._hosts = ByValue(), ByValue()
        self._anywhere: Entries = 0
        for number, candidate in enumerate(self._ranked):
            self._add(number, candidate.expression)
        self._tree = PrefixTree(start for start in self._starts if isinstance(start, bytes))
        self._decided = lru_cache(REMEMBERED)(self._decide)

    def match(
        self,
        method: str,
        path: str,
        host: str | None,
        headers: Mapping[str, Sequence[str]],
        scheme: str = "http",
        sni: str | None = None,
        address: str = "",
    ) -> Match | None:
        """Like `Router.match`; `address` is the client's IP address."""
        if self._traditional is not None:
            return self._traditional.match(method, path, host, headers, scheme, sni)
        normalized = request_path(path)
        name, port = (None, None) if host is None else name_and_port(host)
        shown = {
            PATH: (exact_text(normalized),),
            HOST: () if name is None else (name,),
            PORT: (_PORTS.get(scheme, "80") if port is None else str(port),),
            METHOD: (method,),
            PROTOCOL: (scheme,),
            SNI: (sni,) if sni else (),
            ADDRESS: (address,) if address else (),
            **{field: tuple(values_of(headers, name)) for field, name in self._headers},
            **(self._queries(path) if self._parameters else {}),
            **(self._shown_segments(normalized) if self._segments else {}),
        }
        values = tuple(shown[field] for field in self._fields)
        texts = [*chain.from_iterable(values)]
        if not all(map(_is_utf8, texts)):
            return None
        decide = self._decided if is_remembered([path, *texts]) else self._decide
        return decide(normalized, scheme, values)

    def _candidates(self, routes: Iterable[Route], flavor: Flavor) -> Iterator[_Candidate]:
        for route in filter(takes_part, routes):
            schemes = _BOTH if flavor == "traditional_compatible" else _schemes(route)
            fields = FIELDS if route.expression is not None else (*FIELDS, PORT)
            for part in _parts(route):
                try:
                    yield _Candidate(part.priority, part.id, route, compile_expression(part.source, fields), schemes)
                except ExpressionError as error:
                    self.not_understood.append(f"route {route.name or route.id!r} is not understood: {error.reason}")

    def _queries(self, target: str) -> dict[str, tuple[str, ...]]:
        given = parameters(target, self._parameters)
        return {field: given.get(name, ()) for name, field in self._parameters.items()}

    def _shown_segments(self, path: bytes) -> dict[str, tuple[str, ...]]:
        found = segments(path)
        return {
            field: (str(len(found)),) if field == SEGMENTS else some_of(found, field.removeprefix(SEGMENT))
            for field in self._segments
        }

    def _add(self, number: int, expression: Expression) -> None:
        if expression.hosts is not None:
            for host in expression.hosts:
                self._hosts.add(host, number)
        elif expression.starts is not None:
            for start in expression.starts:
                self._starts.add(from_text(start), number)
        else:
            self._anywhere |= 1 << number

    def _decide(self, path: bytes, scheme: str, values: tuple[tuple[str, ...], ...]) -> Match | None:
        shown = dict(zip(self._fields, values, strict=True))
        for number in self._tried(path, next(iter(shown.get(HOST, ())), None)):
            candidate = self._ranked[number]
            taken = Taken()
            if scheme in candidate.schemes and candidate.expression.holds(shown, taken):
                return _match(candidate.route, path, taken, scheme)
        return None

    def _tried(self, path: bytes, host: str | None) -> Iterator[int]:
        entries = self._anywhere | self._hosts[host]
        for start in self._tree.of(path):
            entries |= self._starts[start]
        while entries:
            lowest = entries & -entries
            yield lowest.bit_length() - 1
            entries ^= lowest


def _is_utf8(value: str) -> bool:
    """Whether Kong can read this text. If a field used by any route has other text, the request has no route."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _parts(route: Route) -> Iterator[Part]:
    """The route's own expression, or those that Kong makes from its conditions."""
    if route.expression is None:
        return parts_of(route)
    return iter((Part(_EXPRESSIONS_FIRST | route.priority, route.id.lower(), route.expression),))


def _schemes(route: Route) -> frozenset[str]:
    """The schemes a route matches. A TLS-only route also matches plain HTTP, where Kong refuses or redirects."""
    schemes = frozenset(_SCHEMES.get(protocol, protocol) for protocol in route.protocols)
    return schemes | {"http"} if route.protocols == ("https",) else schemes


def _match(route: Route, path: bytes, taken: Taken, scheme: str) -> Match:
    rest = None if not taken.path else without_leading_dots(path[len(from_text(taken.path)) :])
    return make_match(route, taken.path, path, rest, scheme, "v0")
