"""The indexed router gives the same answers as a slow one that walks all routes, on tables of any make."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.kong.entities import Route
from mitmproxy_moesif.kong.normalize import request_path
from mitmproxy_moesif.kong.router import Router
from mitmproxy_moesif.kong.sorting import as_listed, sorted_as_in_lua
from tests.support import conformance_file

KINDS = ("hosts", "headers", "paths", "methods", "snis")


@dataclass(frozen=True)
class Request:
    """As the tables have it."""

    method: str
    path: str
    host: str
    headers: dict[str, str]
    scheme: str = "http"
    sni: str | None = None

    @property
    def normalized(self) -> bytes:
        return request_path(self.path)

    @property
    def bare_host(self) -> str:
        return self.host.rpartition(":")[0] or self.host

    @property
    def full_host(self) -> str:
        return self.host if ":" in self.host else f"{self.host}:{443 if self.scheme == 'https' else 80}"


@dataclass(frozen=True)
class Single:
    """A route narrowed to one of its paths."""

    route: Route
    path: str | None

    @property
    def kinds(self) -> tuple[bool, ...]:
        return tuple(bool(getattr(self.route, kind)) for kind in KINDS)

    @property
    def text(self) -> bytes:
        return (self.path or "").removeprefix("~").encode()

    @property
    def is_regular(self) -> bool:
        return (self.path or "").startswith("~")

    @property
    def wildcards(self) -> list[str]:
        return [host for host in self.route.hosts if "*" in host]

    @property
    def plain_hosts(self) -> list[str]:
        return [host for host in self.route.hosts if "*" not in host]

    def rank(self) -> tuple[Any, ...]:
        with_port = any(re.search(r":\d+$", host) for host in self.wildcards)
        only_plain = "hosts" in self.route.model_fields_set and not self.wildcards
        return (
            not with_port,
            not only_plain,
            not self.is_regular,
            -len(self.route.headers),
            -self.route.regex_priority if self.is_regular else 0,
            0 if self.is_regular else -len(self.text),
            self.route.created_at,
        )

    def on_host(self, request: Request) -> bool:
        names = (request.host, request.bare_host)
        plain = any(host in names for host in self.plain_hosts)
        return plain or any(_wildcard(host, request) for host in self.wildcards)

    def on_headers(self, request: Request) -> bool:
        return all(_header(values, request.headers.get(name)) for name, values in self.route.headers.items())

    def on_path(self, request: Request) -> bool:
        if self.is_regular:
            return re.match(_python(self.text), request.normalized) is not None
        return request.normalized.startswith(self.text)

    def fits(self, request: Request) -> bool:
        route = self.route
        return (
            (not route.hosts or self.on_host(request))
            and self.on_headers(request)
            and (self.path is None or self.on_path(request))
            and (not route.methods or request.method in route.methods)
            and (not route.snis or request.scheme == "http" or request.sni in route.snis)
        )


def _python(source: bytes) -> bytes:
    return source.replace(b"(?<", b"(?P<")


def _wildcard(host: str, request: Request) -> bool:
    ending = "$" if re.search(r":\d+$", host) else r"(?::\d+)?$"
    return re.match(host.replace(".", r"\.").replace("*", ".+") + ending, request.full_host) is not None


def _header(values: tuple[str, ...], given_value: str | None) -> bool:
    if given_value is None:
        return False
    if len(values) == 1 and values[0].startswith("~*") and re.search(values[0][2:], given_value.lower()):
        return True
    return given_value.lower() in [value.lower() for value in values]


class SlowRouter:
    """Kong's order and Kong's search, one route after the other."""

    def __init__(self, routes: list[Route]) -> None:
        singles = [Single(route, path) for route in as_listed(routes) for path in route.paths or (None,)]
        self.singles = sorted_as_in_lua(singles, key=Single.rank)
        kinds = {single.kinds for single in singles}
        self.categories = sorted(kinds, key=lambda kinds: (sum(kinds), kinds), reverse=True)

    def match(self, request: Request) -> Single | None:
        hit = self._hits(request)
        kinds = tuple(hit[kind] is not None for kind in KINDS)
        if not any(kinds):
            return None
        start = self.categories.index(kinds) if kinds in self.categories else 0
        for category in self.categories[start:]:
            members = [single for single in self.singles if single.kinds == category]
            for single in self._narrowed(members, hit) + members:
                if single.fits(request):
                    return single
        return None

    def _hits(self, request: Request) -> dict[str, Any]:
        names = [name for single in self.singles for name in single.route.headers if name in request.headers]
        methods = [request.method for single in self.singles if request.method in single.route.methods]
        snis = [request.sni for single in self.singles if request.sni in single.route.snis]
        return {
            "hosts": self._host_hit(request),
            "headers": names[0] if names else None,
            "paths": self._path_hit(request),
            "methods": methods[0] if methods else None,
            "snis": snis[0] if snis else None,
        }

    def _host_hit(self, request: Request) -> str | None:
        if any(
            host in (request.bare_host, request.full_host) for single in self.singles for host in single.plain_hosts
        ):
            return request.host
        wildcards = [host for single in self.singles for host in single.wildcards if _wildcard(host, request)]
        return wildcards[0] if wildcards else None

    def _path_hit(self, request: Request) -> bytes | None:
        regular = [single.text for single in self.singles if single.is_regular and single.on_path(request)]
        plain = [
            single.text for single in self.singles if single.path and not single.is_regular and single.on_path(request)
        ]
        return regular[0] if regular else max(plain, key=len, default=None)

    def _narrowed(self, members: list[Single], hit: dict[str, Any]) -> list[Single]:
        fewest: list[Single] = []
        for kind in KINDS:
            sharing = [single for single in members if hit[kind] is not None and _shares(single, kind, hit[kind])]
            if sharing and kind == "headers":
                return sharing
            if sharing and (not fewest or len(sharing) < len(fewest)):
                fewest = sharing
        return fewest


def _shares(single: Single, kind: str, value: Any) -> bool:
    return bool(single.text == value if kind == "paths" else value in getattr(single.route, kind))


HOSTS = [
    "a.com",
    "b.com",
    "api.a.com",
    "*.a.com",
    "*.com",
    "api.*",
    "a.*",
    "a.com:8443",
    "*.com:8443",
    "api.*:80",
    "b.com:80",
]
PATHS = ["/", "/a", "/ab", "/a/", "/a/b", "/c.d", r"~/a", r"~/a/\w+$", r"~/(?<id>[a-c]+)", r"~/c.d$", r"~/\w+/b"]
HEADERS = [("x", "1"), ("x", "2"), ("x", "~*^[12]$"), ("y", "1"), ("y", "one"), ("z", "Z")]
REQUEST_PATHS = ["/", "/a", "/ab", "/a/b", "/a/b/c", "/c.d", "/cXd", "/c/b", "/d", "//a/./b", "/%61b?x=/", "/z"]
REQUEST_HOSTS = ["a.com", "b.com", "api.a.com", "x.y.a.com", "a.com:8443", "api.org", "other", "API.a.com", "b.com:80"]


def _some(values: list[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.one_of(st.just([]), st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True))


def _id(position: int) -> str:
    return f"00000000-0000-4000-8000-{position:012}"


@st.composite
def tables(draw: st.DrawFn) -> list[Route]:
    routes: list[Route] = []
    for position in range(draw(st.integers(1, 12))):
        headers: dict[str, list[str]] = {}
        for name, value in draw(_some(HEADERS, 2)):
            headers.setdefault(name, []).append(value)
        fields = {
            "hosts": draw(_some(HOSTS)),
            "paths": draw(_some(PATHS)),
            "headers": headers,
            "methods": draw(_some(["GET", "POST", "PUT"])),
            "snis": draw(st.sampled_from([[], [], [], ["s"], ["t", "s"]])),
        }
        if any(fields.values()):
            priority = draw(st.sampled_from([0, 0, 0, 5, -1]))
            age = draw(st.sampled_from([position, position, 0]))
            made = {**fields, "id": _id(position), "created_at": age, "regex_priority": priority}
            if not fields["hosts"] and draw(st.booleans()):
                del made["hosts"]
            routes.append(Route.model_validate(made))
    return draw(st.permutations(routes))


REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    path=st.sampled_from(REQUEST_PATHS),
    host=st.sampled_from(REQUEST_HOSTS),
    headers=st.dictionaries(st.sampled_from(["x", "y", "z"]), st.sampled_from(["1", "2", "One", "z"]), max_size=2),
    scheme=st.sampled_from(["http", "http", "https"]),
    sni=st.sampled_from([None, "s", "t", "u"]),
)


def _decide(router: Router, request: Request) -> tuple[str, str | None] | None:
    headers = {name: [value] for name, value in request.headers.items()}
    match = router.match(request.method, request.path, request.host, headers, request.scheme, request.sni)
    return (match.route.id, match.path) if match else None


@given(tables(), st.lists(REQUESTS, min_size=1, max_size=12))
def test_indexing_never_changes_the_answer(routes: list[Route], requests: list[Request]) -> None:
    fast, slow = Router(routes), SlowRouter(routes)
    for request in requests:
        expected = slow.match(request)
        assert _decide(fast, request) == (expected and (expected.route.id, expected.path))


@given(tables(), REQUESTS, st.randoms(use_true_random=False))
def test_the_order_in_which_routes_are_given_does_not_matter(
    routes: list[Route], request: Request, random: Any
) -> None:
    shuffled = random.sample(routes, len(routes))
    assert _decide(Router(routes), request) == _decide(Router(shuffled), request)


@given(tables(), REQUESTS)
def test_a_match_meets_every_condition_of_its_route(routes: list[Route], request: Request) -> None:
    headers = {name: [value] for name, value in request.headers.items()}
    match = Router(routes).match(request.method, request.path, request.host, headers, request.scheme, request.sni)
    if match:
        assert any(Single(match.route, path).fits(request) for path in match.route.paths or (None,))


@pytest.mark.parametrize("table", json.loads(conformance_file("kong_routes.json").read_text()))
def test_the_slow_router_agrees_with_kong_too(table: dict[str, Any]) -> None:
    router = SlowRouter([Route.model_validate(route) for route in table["routes"]])
    for request in table["requests"]:
        headers = request.get("headers", {})
        match = router.match(Request(request["method"], request["path"], request["host"], headers))
        assert (match and match.route.id) == request["matched_route"]
