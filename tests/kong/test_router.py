"""The router decides as Kong's does: recorded decisions, and a table for each rule."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_moesif.kong.declarative import parse_declarative
from mitmproxy_moesif.kong.entities import Route, Service
from mitmproxy_moesif.kong.normalize import from_text
from mitmproxy_moesif.kong.patterns import Found, Pattern
from mitmproxy_moesif.kong.router import MAX_REMEMBERED, Match, Router, upstream_path
from tests.support import conformance_file

Fields = dict[str, Any]


def _tables() -> list[Fields]:
    tables: list[Fields] = json.loads(conformance_file("kong_routes.json").read_text())
    return tables


def _router(*routes: Fields) -> Router:
    """Routes named by their position, each older than the next."""
    given = [{"id": str(position), "created_at": position, **route} for position, route in enumerate(routes)]
    return Router([Route.model_validate(route) for route in given])


def _ask(router: Router, method: str = "GET", path: str = "/", host: str | None = "h", **headers: str) -> str | None:
    match = router.match(method, path, host, {name.replace("_", "-"): [value] for name, value in headers.items()})
    return match.route.id if match else None


def _matched(router: Router, path: str, host: str = "h", scheme: str = "http", sni: str | None = None) -> Match:
    match = router.match("GET", path, host, {}, scheme, sni)
    assert match is not None
    return match


@pytest.mark.parametrize("table", _tables())
def test_every_recorded_decision_of_kong_agrees(table: Fields) -> None:
    declared = json.dumps({"_format_version": "3.0", "routes": table["routes"]})
    router = Router(parse_declarative(declared.encode(), "kong.json").routes)
    for request in table["requests"]:
        headers = {name: [value] for name, value in request.get("headers", {}).items()}
        match = router.match(request["method"], request["path"], request["host"], headers)
        decided = (match.route.id, match.upstream_path) if match else (None, None)
        assert decided == (request["matched_route"], request["upstream_path"]), request


def test_the_recorded_decisions_are_all_there() -> None:
    assert sum(len(table["requests"]) for table in _tables()) >= 750


# --- which conditions count


def test_more_kinds_of_conditions_come_first() -> None:
    router = _router(
        {"paths": ["/orders"]},
        {"paths": ["/"], "methods": ["GET"]},
        {"paths": ["/"], "methods": ["GET"], "hosts": ["h"]},
    )
    assert _ask(router, path="/orders") == "2"
    assert _ask(router, path="/orders", host="other") == "1"
    assert _ask(router, "POST", "/orders") == "0"
    assert _ask(router, "POST", "/none") is None


def test_of_as_many_kinds_host_outweighs_header_path_and_method() -> None:
    routes: list[Fields] = [{"methods": ["GET"]}, {"paths": ["/"]}, {"headers": {"x": ["1"]}}, {"hosts": ["h"]}]
    for last in range(len(routes), 0, -1):
        assert _ask(_router(*routes[:last]), x="1") == str(last - 1)


def test_an_unlisted_method_host_header_or_path_is_no_match() -> None:
    router = _router({"methods": ["GET"], "hosts": ["h"], "headers": {"x": ["1"]}, "paths": ["/a"]})
    assert _ask(router, path="/a", x="1") == "0"
    assert _ask(router, "get", "/a", x="1") is None
    assert _ask(router, path="/a", host="i", x="1") is None
    assert _ask(router, path="/a", x="2") is None
    assert _ask(router, path="/a") is None
    assert _ask(router, path="/b", x="1") is None


def test_without_routes_nothing_matches() -> None:
    assert _ask(_router()) is None


# --- the order within a category


def test_plain_hosts_come_before_wildcards_and_those_with_a_port_before_both() -> None:
    router = _router({"hosts": ["*.x.com"]}, {"hosts": ["a.x.com", "*.y.com"]}, {"hosts": ["a.x.com"]})
    assert _ask(router, host="a.x.com") == "2"
    router = _router({"hosts": ["a.*"]}, {"hosts": ["a.*:80"]})
    assert _ask(router, host="a.com") == "1"
    assert _ask(router, host="a.com:80") == "1"
    assert _ask(router, host="a.com:81") == "0"


def test_expressions_come_before_prefixes_however_long() -> None:
    router = _router({"paths": ["/orders/17/lines"]}, {"paths": [r"~/orders/\d"]})
    assert _ask(router, path="/orders/17/lines") == "1"


def test_more_headers_come_before_a_longer_path() -> None:
    router = _router(
        {"paths": ["/a/b"], "headers": {"x": ["1"]}}, {"paths": ["/a"], "headers": {"x": ["1"], "y": ["2"]}}
    )
    assert _ask(router, path="/a/b", x="1", y="2") == "1"
    assert _ask(router, path="/a/b", x="1") == "0"


def test_entries_of_the_same_rank_are_in_the_order_of_kongs_sort() -> None:
    paths = ["~/1", "~/a", "~/ab", "~/abc", "~/2"]
    router = _router(*({"paths": [path], "created_at": 0} for path in paths))
    assert [_ask(router, path=path) for path in ("/abcd", "/abd", "/a")] == ["3", "2", "1"]
    assert _matched(_router({"paths": paths}), "/abcd").upstream_path == "/d"


def test_an_empty_list_of_hosts_counts_like_plain_hosts_within_a_category() -> None:
    router = _router({"paths": ["/orders/17"]}, {"paths": ["/"], "hosts": []}, {"paths": ["~/orders"]})
    assert _ask(router, path="/orders/17") == "2"
    router = _router(
        {"paths": ["/orders/17"], "methods": ["GET"]},
        {"paths": ["/orders/1"], "methods": ["GET"], "hosts": []},
        {"paths": ["/orders/17"], "methods": ["GET"], "hosts": None},
    )
    assert _ask(router, path="/orders/18") == "1"
    router = _router({"methods": ["GET"]}, {"methods": ["GET"], "hosts": []}, {"methods": ["GET"], "hosts": {}})
    assert _ask(router) == "1"


def test_regex_priority_orders_expressions_only() -> None:
    router = _router({"paths": ["~/a"]}, {"paths": ["~/a."], "regex_priority": 1})
    assert _ask(router, path="/ab") == "1"
    router = _router({"paths": ["/a"], "regex_priority": -1}, {"paths": ["/a"], "regex_priority": 1})
    assert _ask(router, path="/a") == "0"


def test_the_longer_path_then_the_older_route_wins() -> None:
    router = _router({"paths": ["/a"], "created_at": 5}, {"paths": ["/ab"]}, {"paths": ["/a"], "created_at": 4})
    assert _ask(router, path="/abc") == "1"
    assert _ask(router, path="/a") == "2"


def test_a_route_that_does_not_say_when_it_was_made_is_the_newest_and_then_the_first_given_wins() -> None:
    router = _router({"paths": ["/a"], "created_at": None}, {"paths": ["/a"], "created_at": None}, {"paths": ["/a"]})
    assert _ask(router, path="/a") == "2"
    router = _router({"paths": ["/a"], "created_at": None}, {"paths": ["/a"], "created_at": None})
    assert _ask(router, path="/a") == "0"


def test_the_paths_of_one_route_are_ranked_each_for_itself() -> None:
    router = _router({"paths": ["/a/b/c", "/x"]}, {"paths": ["/x/y"]})
    assert _ask(router, path="/x/y") == "1"
    assert _ask(router, path="/x") == "0"


# --- what Kong's way of searching does to the outcome


def test_a_category_of_just_the_kinds_hit_is_where_the_search_starts() -> None:
    """The SNI condition holds for any plain request, yet no plain request hits an SNI."""
    routes: list[Fields] = [{"paths": ["/a"], "snis": ["s"]}, {"paths": ["/"]}]
    assert _ask(_router(*routes), path="/a") == "1"
    assert _ask(_router(routes[0]), path="/a") == "0"


def test_the_smallest_set_that_shares_a_value_is_tried_before_the_better_ranked_rest() -> None:
    older: Fields = {"paths": ["/a"], "hosts": ["h"]}
    expression: Fields = {"paths": ["~/b"], "hosts": ["h"]}
    assert _ask(_router(expression, older, {"paths": ["~/a"], "hosts": ["i"]}), path="/a", host="h") == "1"
    # the header's name narrows at once: the route for the other header is not looked at, though it is ranked better
    two = _router({"headers": {"x": ["1"]}, "created_at": 9}, {"headers": {"y": ["2"]}, "paths": ["/a/b"]})
    assert _ask(two, path="/a/b", x="1", y="2") == "1"
    narrowed = _router(
        {"headers": {"x": ["1"], "w": ["0"]}, "methods": ["PUT"]},
        {"headers": {"y": ["2"]}, "created_at": 3},
        {"headers": {"x": ["1"]}, "created_at": 4},
    )
    assert _ask(narrowed, x="1", y="2") == "2"


def test_a_prefix_that_reads_like_the_expression_hit_is_taken_for_met() -> None:
    router = _router({"paths": ["~/a.b"], "methods": ["POST"]}, {"paths": ["/a.b"]})
    assert _ask(router, path="/aXb") == "1"


# --- hosts


@pytest.mark.parametrize(
    ("entry", "host", "matches"),
    [
        ("a.com", "a.com", True),
        ("a.com", "a.com:81", True),
        ("a.com", "A.com", False),
        ("a.com", "b.a.com", False),
        ("a.com:81", "a.com:81", True),
        ("a.com:81", "a.com", False),
        ("a.com:80", "a.com", False),
        ("a.com:80", "a.com:80", True),
        ("*.a.com", "b.a.com", True),
        ("*.a.com", "c.b.a.com:8443", True),
        ("*.a.com", "a.com", False),
        ("*.a.com", ".a.com", False),
        ("*.a.com:81", "b.a.com:81", True),
        ("*.a.com:81", "b.a.com", False),
        ("*.a.com:80", "b.a.com", True),
        ("a.*", "a.com", True),
        ("a.*", "a.b.com:81", True),
        ("a.*", "ab.com", False),
        ("a.*:81", "a.com:81", True),
        ("a.*:81", "a.com:82", False),
        ("a.*:81", "a.:81", False),
        ("a.*", "a.:81", True),
    ],
)
def test_a_host_entry(entry: str, host: str, matches: bool) -> None:
    assert _ask(_router({"hosts": [entry]}), host=host) == ("0" if matches else None)


def test_a_wildcard_takes_the_schemes_default_port_and_a_plain_host_does_not() -> None:
    router = _router({"hosts": ["a.com:443"]}, {"hosts": ["*.b.com:443"]})
    assert router.match("GET", "/", "x.b.com", {}, "https") is not None
    assert router.match("GET", "/", "x.b.com", {}, "http") is None
    for scheme in ("https", "http"):
        assert router.match("GET", "/", "a.com", {}, scheme) is None
        assert router.match("GET", "/", "a.com:443", {}, scheme) is not None


def test_a_plain_host_with_the_default_port_is_hit_and_still_does_not_match() -> None:
    """As Kong has it: what is hit says where the search starts."""
    router = _router({"hosts": ["a.com:80"]}, {"paths": ["/a"], "methods": ["GET"]}, {"paths": ["/a"]})
    assert _ask(router, path="/a", host="a.com") == "1"
    assert _ask(router, path="/b", host="a.com") is None


def test_a_request_without_a_host_is_on_no_route_that_wants_one() -> None:
    assert _ask(_router({"hosts": ["*.com"]}, {"methods": ["GET"]}), host=None) == "1"


# --- SNI and protocols


def test_a_server_name_counts_over_tls_without_its_last_dot_and_does_not_over_plain_http() -> None:
    router = _router({"snis": ["a.com."]})
    assert _matched(router, "/", scheme="https", sni="a.com").route.id == "0"
    assert router.match("GET", "/", "h", {}, "https", "b.com") is None
    assert router.match("GET", "/", "h", {}, "https", None) is None
    assert router.match("GET", "/", "h", {}, "http", None) is None  # nothing of the table is hit
    both = _router({"snis": ["a.com"], "methods": ["GET"]})
    assert _matched(both, "/").route.id == "0"


def test_a_route_for_tls_only_matches_a_plain_request_and_says_how_kong_turns_it_away() -> None:
    router = _router({"paths": ["/a"], "protocols": ["https"]}, {"paths": ["/"]})
    assert _matched(router, "/a").turned_away == 426
    assert _matched(router, "/a", scheme="https").turned_away is None
    assert _matched(router, "/b").turned_away is None
    redirecting = _router({"paths": ["/a"], "protocols": ["https"], "https_redirect_status_code": 301})
    assert _matched(redirecting, "/a").turned_away == 301


def test_routes_of_plain_connections_and_of_disabled_services_take_no_part() -> None:
    off = Service(id="s", host="h", enabled=False)
    router = _router({"protocols": ["tcp"], "snis": ["h"]}, {"paths": ["/a"], "service": off}, {"methods": ["GET"]})
    assert _ask(router, path="/a") == "2"


# --- what the match tells


def test_a_prefix_match_tells_what_it_took() -> None:
    match = _matched(_router({"paths": ["/x", "/orders"]}), "/orders/17?q=1")
    assert (match.path, match.upstream_path, match.service) == ("/orders", "/17", None)


def test_an_expression_tells_what_it_left_over() -> None:
    match = _matched(_router({"paths": [r"~/orders/(?<id>\d+)/(x)?"]}), "/orders/17/lines")
    assert (match.path, match.upstream_path) == (r"~/orders/(?<id>\d+)/(x)?", "/lines")


def test_an_expression_that_re2_cannot_take_is_told_alike() -> None:
    match = _matched(_router({"paths": [r"~/(?!x)(?<kind>[a-z]+)"]}), "/orders/17")
    assert (match.path, match.upstream_path) == (r"~/(?!x)(?<kind>[a-z]+)", "/17")


def test_an_alternative_that_is_not_the_last_takes_nothing_off_the_path() -> None:
    router = _router({"paths": ["~/a|/b"]})
    assert _matched(router, "/a/x").upstream_path == "/a/x"
    assert _matched(router, "/b/x").upstream_path == "/x"


def test_a_route_without_paths_strips_nothing() -> None:
    match = _matched(_router({"methods": ["GET"]}), "/a/b")
    assert (match.path, match.upstream_path) == (None, "/a/b")


@pytest.mark.parametrize(
    ("path", "upstream"),
    [("/a../b", "/b"), ("/a./b", "/b"), ("/a..", "/"), ("/a.", "/"), ("/a...", "/..."), ("/a.b", "/.b")],
)
def test_stripping_leaves_no_dot_segment_behind(path: str, upstream: str) -> None:
    assert _matched(_router({"paths": ["/a"]}), path).upstream_path == upstream


def test_the_path_is_decoded_in_the_match() -> None:
    match = _matched(_router({"paths": ["/"], "strip_path": False}), "/caf%c3%a9/%2f/%ff")
    assert match.upstream_path == "/café/%2F/\ufffd"


@pytest.mark.parametrize(
    ("handling", "strip", "base", "path", "joined"),
    [
        # route path /r; service paths without and with a last slash
        ("v0", True, "/", "/r", "/"),
        ("v0", True, "/", "/r/", "/"),
        ("v0", True, "/", "/r/q", "/q"),
        ("v0", True, "/", "/rq", "/q"),
        ("v0", True, "/s", "/r", "/s"),
        ("v0", True, "/s", "/r/", "/s/"),
        ("v0", True, "/s", "/rq", "/s/q"),
        ("v0", True, "/s", "/r/q", "/s/q"),
        ("v0", True, "/s/", "/r", "/s"),
        ("v0", True, "/s/", "/r/", "/s/"),
        ("v0", True, "/s/", "/rq", "/s/q"),
        ("v0", True, "/s/", "/r/q/", "/s/q/"),
        ("v0", False, "/", "/r/q", "/r/q"),
        ("v0", False, "/s", "/r/q", "/s/r/q"),
        ("v0", False, "/s/", "/r/q", "/s/r/q"),
        ("v1", True, "/", "/r", "/"),
        ("v1", True, "/s", "/r", "/s"),
        ("v1", True, "/s", "/rq", "/sq"),
        ("v1", True, "/s", "/r/q", "/s/q"),
        ("v1", True, "/s/", "/r/q", "/s/q"),
        ("v1", True, "/s/", "/r", "/s/"),
        ("v1", False, "/", "/r/q", "/r/q"),
        ("v1", False, "/s", "/r/q", "/sr/q"),
        ("v1", False, "/s/", "/r/q", "/s/r/q"),
    ],
)
def test_the_service_path_and_the_request_path_are_joined(
    handling: str, strip: bool, base: str, path: str, joined: str
) -> None:
    service = Service(id="s", host="h", path=base)
    router = _router({"paths": ["/r"], "service": service, "strip_path": strip, "path_handling": handling})
    assert _matched(router, path).upstream_path == joined
    assert _matched(router, path).service is service


@pytest.mark.parametrize(("base", "joined"), [("/s", "/s"), ("/s/", "/s/"), ("/", "/")])
@pytest.mark.parametrize("strip", [True, False])
def test_the_root_path_gives_the_service_path(base: str, joined: str, strip: bool) -> None:
    route = Route(id="r", paths=("/",), strip_path=strip)
    assert upstream_path(route, from_text(base), b"/", b"") == from_text(joined)


# --- cost


def _varied(number: int) -> Fields:
    kinds: list[Fields] = [
        {"paths": [f"/service{number}/orders"]},
        {"paths": [rf"~/service{number}/users/\d+$"], "methods": ["GET", "POST"]},
        {"paths": ["/orders"], "hosts": [f"api{number}.example.com"]},
        {"hosts": [f"*.tenant{number}.example.com"]},
        {"paths": ["/orders"], "headers": {"x-tenant": [f"tenant{number}"]}},
    ]
    return kinds[number % len(kinds)]


def test_a_lookup_among_a_thousand_routes_tries_but_a_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    router = _router(*(_varied(number) for number in range(1000)))
    tried: list[bytes] = []
    match = Pattern.match

    def noted(self: Pattern, text: bytes) -> Found | None:
        tried.append(self.source)
        return match(self, text)

    monkeypatch.setattr(Pattern, "match", noted)
    assert _ask(router, path="/service501/users/9") == "501"
    assert _ask(router, path="/service500/orders/9") == "500"
    assert _ask(router, path="/orders", host="api502.example.com") == "502"
    assert _ask(router, path="/", host="x.tenant503.example.com:8000") == "503"
    assert _ask(router, path="/orders", x_tenant="TENANT504") == "504"
    assert _ask(router, path="/nothing") is None
    assert len(tried) == 1  # for what it leaves over of the path, not to find the route


def test_decisions_are_remembered_but_not_those_about_much() -> None:
    """Strangers must not fill the memory."""
    router = _router({"paths": ["/a"]}, {"headers": {"x": ["1"]}})
    assert router.match("GET", "/a", "h", {"unnamed": ["1"]}) is router.match("GET", "/a?x", "h", {"unnamed": ["2"]})
    much = "x" * MAX_REMEMBERED
    for path, host, headers in (
        (f"/a{much}", "h", {}),
        ("/a", much, {}),
        ("/a", "h", {"x": [much]}),
        ("/a", "h", {"x": [""] * MAX_REMEMBERED}),
    ):
        found = router.match("GET", path, host, headers)
        assert found is not None
        assert found is not router.match("GET", path, host, headers)


def test_what_is_remembered_depends_on_all_that_decides() -> None:
    router = _router(
        {"hosts": ["a.b:443", "*.b:443"]}, {"snis": ["s"]}, {"headers": {"x": ["1"]}}, {"methods": ["PUT"]}
    )
    for _ in range(2):
        assert _matched(router, "/", "a.b", "https").route.id == "0"
        assert router.match("GET", "/", "a.b", {}, "http") is None
        assert _matched(router, "/", "b", "https", "s").route.id == "1"
        assert router.match("GET", "/", "b", {}, "https", "t") is None
        assert _ask(router, x="1") == "2"
        assert _ask(router, "PUT") == "3"
        assert _ask(router) is None
