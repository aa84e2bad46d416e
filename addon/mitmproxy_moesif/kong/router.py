"""Finds the route of a request: the decisions of Kong's router, flavour `traditional`.

Every (route, path) pair is an *entry*. Entries with the same kinds of conditions {host, header, path, method, SNI} are
a *category*; categories with more conditions come first. Within a category the entries are ranked: wildcard hosts with
port, plain hosts, other wildcards; regular expressions before prefixes; more headers; higher `regex_priority`; longer
path; older route.

A request is routed in three steps, each of which affects the result:
1. what it hits: the kinds of condition that any entry of the table meets. If there is a category of exactly these
   kinds, the categories before it are skipped;
2. in each category, the smallest set of entries that share the host, header name, path, method or SNI that the request
   hits is tried before the rest of the category, regardless of rank;
3. the first entry whose conditions all hold is the match.

Conditions are not tried entry by entry: indexes.py returns sets of entries as bits of an integer, in the order of
categories and rank, so the first entry is the lowest bit.

Source: recorded decisions of Kong's router; where they leave something open, Kong's public source for ordering and
searching (facts taken from it, no code). For implied default ports, see `HostIndex`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from mitmproxy_moesif.kong.entities import Route, Service
from mitmproxy_moesif.kong.indexes import (
    ByValue,
    Entries,
    HeaderIndex,
    Headers,
    HostIndex,
    PathIndex,
    wildcard_has_port,
    without_last_dot,
)
from mitmproxy_moesif.kong.normalize import from_text, request_path, to_text
from mitmproxy_moesif.kong.patterns import REST_OF_PATH, Pattern
from mitmproxy_moesif.kong.sorting import as_listed, sorted_as_in_lua

KINDS = HOST, HEADER, PATH, METHOD, SNI = 16, 8, 4, 2, 1
"""The kinds of condition, by descending weight."""

REMEMBERED = 5000
"""Size of the decision cache, the same as Kong's."""

MAX_REMEMBERED = 2048
"""Characters. Longer requests are not cached, so that clients cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request.

    `path` is the matching path as written in the route (None: the route has no paths). `upstream_path` is the path
    requested from the service, without query, decoded as in `normalize`.
    """

    route: Route
    path: str | None
    upstream_path: str
    turned_away: int | None
    """The status with which Kong itself responds, if the route is only for TLS and the request came without."""

    @property
    def service(self) -> Service | None:
        return self.route.service


@dataclass(slots=True)
class _Entry:
    route: Route
    path: str | None
    value: bytes = b""
    stripping: Pattern | None = None
    kinds: int = 0
    number: int = 0

    @property
    def is_regular(self) -> bool:
        return self.stripping is not None


class Router:
    """Routes requests over `routes`, except those of disabled services and those not for HTTP.

    If Kong's order does not distinguish two entries, the one that its sorting happens to put first wins (sorting.py).
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        listed = as_listed([route for route in routes if takes_part(route)])
        ranked = sorted_as_in_lua((entry for route in listed for entry in _entries_of(route)), key=_rank)
        self._entries = sorted(ranked, key=lambda entry: (-entry.kinds.bit_count(), -entry.kinds))
        for number, entry in enumerate(self._entries):
            entry.number = number
        self._hosts, self._headers, self._methods, self._snis = HostIndex(), HeaderIndex(), ByValue(), ByValue()
        for entry in ranked:
            self._add(entry)
        self._paths = PathIndex(
            prefixes=[(entry.value, entry.number) for entry in ranked if entry.path and not entry.is_regular],
            expressions=[(entry.value, entry.number) for entry in ranked if entry.is_regular],
        )
        members: dict[int, Entries] = {}
        for entry in self._entries:
            members[entry.kinds] = members.get(entry.kinds, 0) | 1 << entry.number
        self._categories = list(members.items())
        self._starts = {kinds: start for start, (kinds, _) in enumerate(self._categories)}
        self._without = {kind: _without(kind, self._categories) for kind in KINDS}
        self._decided = lru_cache(REMEMBERED)(self._decide)

    def match(
        self,
        method: str,
        path: str,
        host: str | None,
        headers: Mapping[str, Sequence[str]],
        scheme: str = "http",
        sni: str | None = None,
    ) -> Match | None:
        """The route of a request; None if there is none.

        `path`: the request target, with or without query. `host`: the Host header as sent, with its port if any.
        `headers`: the values by lower-case name. `sni`: the server name of the TLS handshake.
        """
        relevant = self._headers.relevant(headers)
        shown = [method, path, host or "", sni or "", *chain.from_iterable(values for _, values in relevant)]
        decide = self._decided if is_remembered(shown) else self._decide
        return decide(method, request_path(path), host, relevant, scheme, sni)

    def _add(self, entry: _Entry) -> None:
        for host in entry.route.hosts:
            self._hosts.add(host, entry.number)
        for name, values in entry.route.headers.items():
            self._headers.add(name, values, entry.number)
        for method in entry.route.methods:
            self._methods.add(method, entry.number)
        for sni in entry.route.snis:
            self._snis.add(without_last_dot(sni), entry.number)

    def _decide(
        self, method: str, path: bytes, host: str | None, headers: Headers, scheme: str, sni: str | None
    ) -> Match | None:
        on_host = self._hosts.hit(host, 443 if scheme == "https" else 80)
        on_path = self._paths.hit(path)
        of_method, of_sni = self._methods[method], self._snis[sni]
        hit_kinds = HOST * on_host.is_hit | HEADER * bool(headers) | PATH * on_path.is_hit
        hit_kinds |= METHOD * bool(of_method) | SNI * bool(of_sni)
        met = (
            (on_host.met | self._without[HOST])
            & (~self._headers.unmet(headers))
            & ((on_path.met if path else 0) | self._without[PATH])
            & (of_method | self._without[METHOD])
            & (-1 if scheme == "http" else of_sni | self._without[SNI])
        )
        sharing = (
            (HOST, self._hosts.as_written[on_host.key]),
            (HEADER, self._headers.naming[headers[0][0]] if headers else 0),
            (PATH, self._paths.as_written[on_path.key]),
            (METHOD, of_method),
            (SNI, of_sni),
        )
        entry = self._first(met, hit_kinds, sharing)
        return None if entry is None else _match(entry, path, scheme)

    def _first(self, met: Entries, hit_kinds: int, sharing: Sequence[tuple[int, Entries]]) -> _Entry | None:
        if not hit_kinds:
            return None
        for kinds, members in self._categories[self._starts.get(hit_kinds, 0) :]:
            if here := met & members:
                return self._entries[_lowest(here & _tried_first(kinds, members, sharing) or here)]
        return None


def is_remembered(shown: Sequence[str]) -> bool:
    """Whether the decision on a request with these texts may be cached."""
    return sum(map(len, shown)) + len(shown) <= MAX_REMEMBERED


def takes_part(route: Route) -> bool:
    return route.is_http and (route.service is None or route.service.enabled)


def _entries_of(route: Route) -> Iterator[_Entry]:
    """One entry for each of the route's paths, so that each has its own rank; one entry if it has no paths."""
    for path in route.paths or (None,):
        entry = _Entry(route, path)
        entry.kinds = (
            HOST * bool(route.hosts)
            | HEADER * bool(route.headers)
            | PATH * (path is not None)
            | METHOD * bool(route.methods)
            | SNI * bool(route.snis)
        )
        if path is not None:
            entry.value = from_text(path.removeprefix("~"))
            entry.stripping = Pattern(entry.value + REST_OF_PATH) if path.startswith("~") else None
        yield entry


def _rank(entry: _Entry) -> tuple[float, ...]:
    """Sort key for the entries of a category: the lowest comes first."""
    route = entry.route
    has_wildcard_with_port = any(wildcard_has_port(host) for host in route.hosts)
    return (
        -(4 * has_wildcard_with_port + 2 * route.has_plain_hosts_only + entry.is_regular),
        -len(route.headers),
        -route.regex_priority if entry.is_regular else 0,
        0 if entry.is_regular else -len(entry.value),
        float("inf") if route.created_at is None else route.created_at,
    )


def _without(kind: int, categories: Iterable[tuple[int, Entries]]) -> Entries:
    """The entries without a condition of this kind."""
    return sum(members for kinds, members in categories if not kinds & kind)  # categories are disjoint


def _tried_first(kinds: int, members: Entries, sharing: Sequence[tuple[int, Entries]]) -> Entries:
    """The entries of a category that Kong tries first: the smallest set that shares a value with the request."""
    fewest = 0
    for kind, entries in sharing:
        here = entries & members if kinds & kind else 0
        if here and kind == HEADER:
            return here
        if here and (not fewest or here.bit_count() < fewest.bit_count()):
            fewest = here
    return fewest


def _lowest(entries: Entries) -> int:
    return (entries & -entries).bit_length() - 1


def _match(entry: _Entry, path: bytes, scheme: str) -> Match:
    return make_match(entry.route, entry.path, path, _left_over(entry, path), scheme)


def make_match(
    route: Route, matched: str | None, path: bytes, rest: bytes | None, scheme: str, path_handling: str | None = None
) -> Match:
    """`matched`: the route's path that matches the request's `path`. `rest`: the remainder of `path` after the matched
    part; None if unknown. `path_handling`: by default the route's."""
    base = from_text(route.service.path or "/") if route.service else b"/"
    upstream = upstream_path(route, base, path, path[1:] if rest is None else rest, path_handling)
    return Match(
        route=route,
        path=matched,
        upstream_path=to_text(upstream),
        turned_away=route.https_redirect_status_code if route.needs_tls and scheme != "https" else None,
    )


def _left_over(entry: _Entry, path: bytes) -> bytes | None:
    if entry.path is None:
        return None
    found = entry.stripping.match(path) if entry.stripping else None
    # None if a top-level alternative matched that is not the expression's last
    rest = path[len(entry.value) :] if found is None else found.groups()[-1]
    return None if rest is None else without_leading_dots(rest)


def without_leading_dots(rest: bytes) -> bytes:
    """Drop leading dot segments: removing `/a` from `/a../b` must not leave one."""
    if rest in (b".", b".."):
        return b""
    return rest[2:] if rest.startswith(b"./") else rest.removeprefix(b"../")


def upstream_path(route: Route, base: bytes, path: bytes, rest: bytes, path_handling: str | None = None) -> bytes:
    """The service's path `base` joined with `path`, or with the `rest` of it if the route strips the matched part.

    `path_handling` v0 puts exactly one slash in between and keeps a trailing one; v1 concatenates the two.
    """
    if (path_handling or route.path_handling) == "v1":
        return _joined_v1(base, rest) if route.strip_path else base + path[1:]
    if not route.strip_path:
        return base + path[1:] if base.endswith(b"/") else base if path == b"/" else base + path
    if rest:
        return base.removesuffix(b"/") + b"/" + rest.removeprefix(b"/")
    if base == b"/":
        return base
    keeps_slash = path.endswith(b"/") and (path != b"/" or base.endswith(b"/"))
    return base.removesuffix(b"/") + (b"/" if keeps_slash else b"")


def _joined_v1(base: bytes, rest: bytes) -> bytes:
    return base + (rest[1:] if base.endswith(b"/") and rest.startswith(b"/") else rest)
