"""Which route a request is on where routes have expressions: Kong's router of the flavour `expressions`.

Routes with an expression come first, by priority; of one priority the one with the higher id. Those without follow,
as in the flavour `traditional`. Where paths must start with a known text, only the routes for such paths are tried.

Source: Kong's public source for how expressions are completed by `protocols` and ordered (facts taken from it, no
code). Kong orders the routes without one a little otherwise in this flavour; with several that fit, its choice may be
another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain

from mitmproxy_moesif.kong.entities import Route
from mitmproxy_moesif.kong.expressions import (
    ADDRESS,
    HEADER,
    HOST,
    METHOD,
    PATH,
    PROTOCOL,
    QUERY,
    SEGMENT,
    SEGMENTS,
    SNI,
    Expression,
    ExpressionError,
    Taken,
    compile_expression,
    header_name,
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

_SCHEMES = {"grpc": "http", "grpcs": "https", "ws": "http", "wss": "https"}
"""The scheme of requests of a protocol, where it has another name."""


class ExpressionRouter:
    """Decides over `routes`, those with expressions and those without; one that is not understood has no part."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._others = Router([route for route in routes if route.expression is None])
        self._ranked = sorted(_understood(routes), key=_rank, reverse=True)
        self._schemes = [_schemes(route) for route, _ in self._ranked]
        fields = set[str]().union(*(expression.fields for _, expression in self._ranked))
        self._fields = sorted(fields | {PATH} if any(route.paths for route in routes) else fields)
        self._headers = [(field, header_name(field)) for field in self._fields if field.startswith(HEADER)]
        self._parameters = {field.removeprefix(QUERY): field for field in self._fields if field.startswith(QUERY)}
        self._segments = [field for field in self._fields if field.startswith(SEGMENT)]
        self._starts = ByValue()
        self._anywhere: Entries = 0
        for number, (_, expression) in enumerate(self._ranked):
            self._add(number, expression)
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
        """As `Router.match`; `address` is the client's."""
        found = None
        if self._ranked:
            normalized = request_path(path)
            shown = {
                PATH: (exact_text(normalized),),
                HOST: () if host is None else (without_port(host),),
                METHOD: (method,),
                PROTOCOL: (scheme,),
                SNI: (sni,) if sni else (),
                ADDRESS: (address,) if address else (),
                **{field: tuple(values_of(headers, name)) for field, name in self._headers},
                **(self._queries(path) if self._parameters else {}),
                **(self._parts(normalized) if self._segments else {}),
            }
            values = tuple(shown[field] for field in self._fields)
            texts = [*chain.from_iterable(values)]
            if not all(map(_is_utf8, texts)):
                return None
            decide = self._decided if is_remembered([path, *texts]) else self._decide
            found = decide(normalized, scheme, values)
        return found or self._others.match(method, path, host, headers, scheme, sni)

    def _queries(self, target: str) -> dict[str, tuple[str, ...]]:
        given = parameters(target, self._parameters)
        return {field: given.get(name, ()) for name, field in self._parameters.items()}

    def _parts(self, path: bytes) -> dict[str, tuple[str, ...]]:
        found = segments(path)
        return {
            field: (str(len(found)),) if field == SEGMENTS else some_of(found, field.removeprefix(SEGMENT))
            for field in self._segments
        }

    def _add(self, number: int, expression: Expression) -> None:
        if expression.starts is None:
            self._anywhere |= 1 << number
        for start in expression.starts or ():
            self._starts.add(from_text(start), number)

    def _decide(self, path: bytes, scheme: str, values: tuple[tuple[str, ...], ...]) -> Match | None:
        shown = dict(zip(self._fields, values, strict=True))
        for number in self._tried(path):
            route, expression = self._ranked[number]
            taken = Taken()
            if scheme in self._schemes[number] and expression.holds(shown, taken):
                return _match(route, path, taken, scheme)
        return None

    def _tried(self, path: bytes) -> Iterator[int]:
        entries = self._anywhere
        for start in self._tree.of(path):
            entries |= self._starts[start]
        while entries:
            lowest = entries & -entries
            yield lowest.bit_length() - 1
            entries ^= lowest


def _is_utf8(value: str) -> bool:
    """Kong reads no other text, and where a field that any route asks for is none, the request is on no route."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def without_port(host: str) -> str:
    """As Kong's router cuts it: at the first colon, where a number follows."""
    name, _, port = host.partition(":")
    return name if port.isascii() and port.isdigit() else host


def _understood(routes: Sequence[Route]) -> Iterator[tuple[Route, Expression]]:
    for route in routes:
        if route.expression is not None and takes_part(route):
            with suppress(ExpressionError):
                yield route, compile_expression(route.expression)


def _rank(pair: tuple[Route, Expression]) -> tuple[int, str]:
    route, _ = pair
    return route.priority, route.id.lower()


def _schemes(route: Route) -> frozenset[str]:
    """A route for TLS alone is also met without: Kong turns such requests away, or redirects them."""
    schemes = frozenset(_SCHEMES.get(protocol, protocol) for protocol in route.protocols)
    return schemes | {"http"} if route.protocols == ("https",) else schemes


def _match(route: Route, path: bytes, taken: Taken, scheme: str) -> Match:
    rest = None if not taken.path else without_leading_dots(path[len(from_text(taken.path)) :])
    return make_match(route, taken.path, path, rest, scheme)
