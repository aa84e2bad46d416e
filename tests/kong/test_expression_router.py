"""Routes with expressions are tried by priority, before those without."""

from __future__ import annotations

from typing import Any

import pytest

from mitmproxy_moesif.kong.entities import Route, Service
from mitmproxy_moesif.kong.expression_router import ExpressionRouter
from mitmproxy_moesif.kong.router import MAX_REMEMBERED


def router(*routes: dict[str, Any], service: Service | None = None) -> ExpressionRouter:
    given = [{"id": str(position), "service": service, **route} for position, route in enumerate(routes)]
    return ExpressionRouter([Route.model_validate(route) for route in given])


def ask(found: ExpressionRouter, path: str = "/", host: str | None = "h", **more: Any) -> str | None:
    match = found.match(more.pop("method", "GET"), path, host, more.pop("headers", {}), **more)
    return match.route.id if match else None


def test_the_higher_priority_counts_whatever_the_order() -> None:
    routes = [
        {"expression": 'http.path ^= "/"', "priority": 1},
        {"expression": 'http.path ^= "/a"', "priority": 3},
        {"expression": 'http.path ^= "/a/b"', "priority": 2},
    ]
    assert ask(router(*routes), "/a/b/c") == "1"
    assert ask(router(*routes), "/b") == "0"


def test_of_one_priority_the_higher_id_counts() -> None:
    same = {"expression": 'http.path ^= "/"', "priority": 7}
    found = router({**same, "id": "0a"}, {**same, "id": "0C"}, {**same, "id": "0b"})
    assert ask(found) == "0C"


def test_routes_without_an_expression_follow() -> None:
    found = router({"paths": ["/a"], "hosts": ["h"], "methods": ["GET"]}, {"expression": 'http.path ^= "/a/b"'})
    assert ask(found, "/a/b") == "1"
    assert ask(found, "/a/c") == "0"
    assert ask(found, "/c") is None


def test_every_field_is_that_of_the_request() -> None:
    found = router(
        {"expression": 'http.method == "PUT"', "priority": 9},
        {"expression": 'http.host == "api.example.com"', "priority": 8},
        {"expression": 'any(http.headers.x_tenant) == "green"', "priority": 7},
        {"expression": 'tls.sni == "s"', "priority": 6},
        {"expression": "net.src.ip in 10.0.0.0/8", "priority": 5},
        {"expression": 'http.path == "/caf\u00e9"', "priority": 4},
    )
    for _ in range(2):  # decided, and remembered
        assert ask(found, method="PUT") == "0"
        assert ask(found, host="api.example.com:8443") == "1"
        assert ask(found, headers={"x-tenant": ["blue", "green"]}) == "2"
        assert ask(found, scheme="https", sni="s") == "3"
        assert ask(found, address="10.1.2.3") == "4"
        assert ask(found, "//x/../caf%c3%a9?a=b") == "5"
        assert ask(found, host=None) is None


def test_an_underscore_in_a_field_stands_for_itself_or_else_for_a_dash() -> None:
    found = router({"expression": 'http.headers.x_tenant == "green"'})
    assert ask(found, headers={"x-tenant": ["green"]}) == "0"
    assert ask(found, headers={"x_tenant": ["green"]}) == "0"
    assert ask(found, headers={"x-tenant": ["green"], "x_tenant": ["red"]}) is None


def test_parameters_are_those_of_the_query_decoded() -> None:
    found = router(
        {"expression": 'any(http.queries.tenant) == "gr\u00fcn & blau"', "priority": 3},
        {"expression": 'http.queries.dry_run == ""', "priority": 2},
        {"expression": 'http.queries.Tenant != "red"', "priority": 1},
    )
    assert ask(found, "/?tenant=x&tenant=gr%C3%BCn+%26%20blau") == "0"
    assert ask(found, "/?&&=x&dry_run") == "1"
    assert ask(found, "/?dry%5Frun=#end") == "1"
    assert ask(found, "/?Tenant=green") == "2"
    assert ask(found, "/?tenant=green&Tenant=red") is None
    assert ask(found, f"/?{'a&' * 98}dry_run") == "1"
    assert ask(found, f"/?{'a&' * 100}dry_run") is None


@pytest.mark.parametrize(
    ("expression", "path", "expected"),
    [
        ('http.path.segments.0 == "a"', "/a/b", True),
        ('http.path.segments.1 == "b"', "/a/b", True),
        ('http.path.segments.01 == "b"', "/a/b", True),
        ('http.path.segments.2 != "b"', "/a/b", False),
        ('http.path.segments.0_1 == "a/b"', "/a/b/c", True),
        ('http.path.segments.1_2 == "b/c"', "/a/./b//c/", True),
        ('http.path.segments.1_3 != "x"', "/a/b/c", False),
        ('http.path.segments.1_1 != "x"', "/a/b/c", False),
        ('http.path.segments.first != "x"', "/a/b/c", False),
        ('http.path.segments.99999999999999999999 != "x"', "/a", False),
        ("http.path.segments.len == 0", "/", True),
        ("http.path.segments.len == 2", "/a/b/?c/d", True),
        ("http.path.segments.len == 1", "/a%2Fb", True),
    ],
)
def test_segments_are_those_of_the_normalized_path(expression: str, path: str, expected: bool) -> None:
    assert (ask(router({"expression": expression}), path) is not None) is expected


def test_a_request_whose_asked_fields_are_no_utf8_is_on_no_route() -> None:
    found = router({"expression": 'http.path ^= "/" && http.headers.x != "1"'}, {"methods": ["GET"]})
    assert ask(found, "/%c3%a9", headers={"x": ["\u00e9"]}) == "0"
    assert ask(found, "/%c3%a9") == "1"
    assert ask(found, "/%ff", headers={"x": ["2"]}) is None
    assert ask(found, "/", headers={"x": ["2", "\udce9"]}) is None
    assert ask(found, "/", headers={"x": ["2"], "y": ["\udce9"]}) == "0"
    by_method = {"expression": 'http.method == "GET"'}
    assert ask(router(by_method), "/%ff") == "0"
    assert ask(router(by_method, {"paths": ["/a"]}), "/%ff") is None
    assert ask(router({"paths": ["/"]}), "/%ff") == "0"
    assert ask(router({"expression": 'http.queries.a != "1"'}), "/?a=%ff") is None
    assert ask(router({"expression": 'http.path.segments.0 != "1"'}), "/%ff") is None


def test_protocols_narrow_a_route_and_tls_alone_turns_plain_requests_away() -> None:
    both = 'http.path ^= "/"'
    assert ask(router({"expression": both, "protocols": ["http"]}), scheme="https") is None
    only_tls = router({"expression": both, "protocols": ["https"]})
    assert ask(only_tls, scheme="https") == "0"
    turned_away = only_tls.match("GET", "/", "h", {})
    assert turned_away is not None
    assert turned_away.turned_away == 426
    assert ask(router({"expression": both, "protocols": ["grpcs"]}), scheme="https") == "0"
    assert ask(router({"expression": both, "protocols": ["grpcs"]}), scheme="http") is None


def test_stream_routes_and_what_is_not_understood_have_no_part() -> None:
    stream = {"expression": "net.dst.port == 9000", "protocols": ["tcp"]}
    assert ask(router(stream, {"expression": 'tls.alpn == "h2"'}, {"expression": 'http.path ^= "/"'})) == "2"


@pytest.mark.parametrize(
    ("expression", "strip", "path", "upstream", "taken"),
    [
        ('http.path ^= "/a"', True, "/a/b", "/base/b", "/a"),
        ('http.path ^= "/a"', False, "/a/b", "/base/a/b", "/a"),
        (r'http.path ~ r#"^/a/(\d+)"#', True, "/a/17/c", "/base/c", "/a/17"),
        ('http.method == "GET"', True, "/a/b", "/base/a/b", None),
        ('http.path ^= ""', True, "/", "/base", ""),
    ],
)
def test_what_an_expression_took_is_stripped(
    expression: str, strip: bool, path: str, upstream: str, taken: str | None
) -> None:
    service = Service(id="s", host="h", path="/base")
    match = router({"expression": expression, "strip_path": strip}, service=service).match("GET", path, "h", {})
    assert match is not None
    assert (match.upstream_path, match.path) == (upstream, taken)


def test_decisions_are_remembered_but_not_those_about_much() -> None:
    found = router({"expression": 'http.path ^= "/a"'}, {"expression": 'http.headers.x == "1"'})
    assert found.match("GET", "/a", "h", {"y": ["1"]}) is found.match("PUT", "/a?b", "i", {"y": ["2"]})
    much = "x" * MAX_REMEMBERED
    for path, headers in ((f"/a{much}", {}), ("/a", {"x": [much]})):
        assert found.match("GET", path, "h", headers) is not found.match("GET", path, "h", headers)


def test_in_a_large_table_only_the_routes_of_a_path_or_a_host_are_tried() -> None:
    by_path = [{"expression": f'http.path ^= "/tenant{n}/" && http.method == "GET"'} for n in range(2000)]
    found = router(*by_path)
    assert [found._ranked[number].route.id for number in found._tried(b"/tenant1234/orders", "h")] == ["1234"]
    assert ask(found, "/tenant1234/orders") == "1234"
    by_host = [{"expression": f'http.path ^= "/" && http.host == "tenant{n}"'} for n in range(2000)]
    found = router(*by_host, {"expression": 'http.host == "tenant1234" || http.host == "h"', "priority": 1})
    assert [found._ranked[number].route.id for number in found._tried(b"/", "tenant1234")] == ["2000", "1234"]
    assert ask(found, host="tenant1234:80") == "2000"
    assert ask(found, host="tenant999") == "999"
