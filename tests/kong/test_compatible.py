"""Routes without an expression as Kong's newer flavours take them: recorded decisions, and a table for each rule."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_moesif.kong.compatible import name_and_port, parts_of
from mitmproxy_moesif.kong.entities import Flavor, Route, Service
from mitmproxy_moesif.kong.expression_router import ExpressionRouter
from tests.support import REPOSITORY

Fields = dict[str, Any]

RECORDED: dict[Flavor, list[Fields]] = json.loads((REPOSITORY / "tests" / "data" / "kong_flavors.json").read_text())


def _route(**fields: Any) -> Route:
    path = fields.pop("service_path", None)
    service = Service(id="s", host="h", path=path)
    return Route.model_validate({"id": "a", "service": service, **fields})


def _ask(*routes: Fields, path: str = "/", host: str = "h", **more: Any) -> str | None:
    given = [_route(**{"id": str(position), **route}) for position, route in enumerate(routes)]
    router = ExpressionRouter(given, "traditional_compatible")
    match = router.match("GET", path, host, more.pop("headers", {}), **more)
    return match.route.id if match else None


@pytest.mark.parametrize(
    ("flavor", "table"), [(flavor, table) for flavor, tables in RECORDED.items() for table in tables]
)
def test_every_recorded_decision_of_kong_agrees(flavor: Flavor, table: Fields) -> None:
    router = ExpressionRouter([_route(**route) for route in table["routes"]], flavor)
    for request in table["requests"]:
        match = router.match(
            request["method"],
            request["path"],
            request["host"],
            request.get("headers", {}),
            request.get("scheme", "http"),
            request.get("sni"),
            "10.0.0.1",
        )
        decided = (match.route.id, match.upstream_path) if match else (None, None)
        assert decided == (request["matched_route"], request.get("upstream_path")), request


def test_the_recorded_decisions_are_all_there() -> None:
    assert sum(len(table["requests"]) for tables in RECORDED.values() for table in tables) >= 400


def test_plain_hosts_come_before_regular_paths_and_those_before_up_to_three_kinds() -> None:
    kinds = {"methods": ["GET"], "paths": ["/"], "headers": {"x": ["1"]}}
    regular, plain, wildcard = {"paths": ["~/"]}, {"hosts": ["a.h"]}, {"hosts": ["*.h"]}
    shown: Fields = {"host": "a.h", "headers": {"x": ["1"]}}
    assert _ask(kinds, regular, **shown) == "1"
    assert _ask(regular, plain, **shown) == "1"
    assert _ask(kinds, wildcard, **shown) == "0"
    assert _ask({"methods": ["GET"]}, {"methods": ["GET"], "paths": ["/"]}, **shown) == "1"
    assert _ask(plain, {**kinds, **wildcard}, **shown) == "1"


def test_an_empty_list_of_hosts_ranks_a_route_as_plain_hosts_do() -> None:
    assert _ask({"paths": ["~/"]}, {"paths": ["/"], "hosts": []}) == "1"
    assert _ask({"paths": ["~/"]}, {"paths": ["/"], "hosts": {}}) == "1"
    assert _ask({"paths": ["~/"]}, {"paths": ["/"], "hosts": None}) == "0"


def test_of_one_priority_the_higher_id_counts() -> None:
    same = {"paths": ["/"]}
    assert _ask({**same, "id": "0a"}, {**same, "id": "0C"}, {**same, "id": "0b"}) == "0C"


def test_paths_are_ranked_by_length_in_bytes_each_for_itself() -> None:
    routes: list[Fields] = [
        {"paths": ["/", "/a/b"]},
        {"paths": ["/a/"]},
        {"paths": ["/\u00e9\u00e9"]},
        {"paths": ["/\u00e9"]},
    ]
    assert _ask(*routes, path="/a/b") == "0"
    assert _ask(*routes, path="/a/c") == "1"
    assert _ask(*routes, path="/\u00e9\u00e9") == "2"


def test_the_paths_of_a_route_are_parts_by_length_with_ids_of_their_own() -> None:
    route = _route(id="11111111-2222-3333-4444-555555555555", paths=["~/a", "/bc", "/d", "~/e", "/fg"])
    first, second, third = parts_of(route)
    assert '"^/a"' in first.source
    assert '"^/e"' in first.source
    assert len({first.id, second.id, third.id, route.id}) == 4
    assert [part.id for part in parts_of(route)] == [first.id, second.id, third.id]
    (whole,) = parts_of(_route(paths=["/ab", "/cd"]))
    assert whole.id == "a"


def test_a_host_with_a_port_takes_the_default_one_of_the_scheme_where_none_is_asked_for() -> None:
    routes: list[Fields] = [{"hosts": ["h:443"]}, {"hosts": ["*.x:8000"]}]
    assert _ask(*routes) is None
    assert _ask(*routes, scheme="https") == "0"
    assert _ask(*routes, host="h:443") == "0"
    assert _ask(*routes, host="a.x:8000") == "1"
    assert _ask(*routes, host="a.x") is None


def test_a_server_name_counts_over_tls_alone_and_may_be_a_wildcard() -> None:
    routes: list[Fields] = [{"snis": ["*.s.com"]}]
    assert _ask(*routes, scheme="https", sni="a.s.com") == "0"
    assert _ask(*routes, scheme="https", sni="s.com") is None
    assert _ask(*routes) == "0"
    assert _ask({"snis": ["s.com."]}, scheme="https", sni="s.com") == "0"


def test_each_of_several_values_of_a_header_may_be_an_expression_in_lower_case() -> None:
    routes: list[Fields] = [{"headers": {"X-Tenant": ["~*^GR", "blue"]}}]
    assert _ask(*routes, headers={"x-tenant": ["red", "Green"]}) == "0"
    assert _ask(*routes, headers={"x-tenant": ["BLUE"]}) == "0"
    assert _ask(*routes, headers={"x-tenant": ["red"]}) is None


def test_text_that_ends_a_raw_string_is_taken_as_it_is() -> None:
    assert _ask({"headers": {"x": ['a"#\\b']}}, headers={"x": ['A"#\\B']}) == "0"


def test_a_path_that_kongs_engine_cannot_take_has_no_part() -> None:
    routes: list[Fields] = [{"paths": ["~/(?!x)"]}, {"paths": ["/"]}]
    assert _ask(*routes, path="/a") == "1"


@pytest.mark.parametrize(
    ("host", "split"),
    [
        ("a", ("a", None)),
        ("a:80", ("a", 80)),
        ("a:", ("a:", None)),
        ("a:x", ("a:x", None)),
        ("[::1]:80", ("[::1]:80", None)),
        ("a:" + "9" * 5000, ("a", 999_999_999)),
    ],
)
def test_the_port_of_a_host_is_cut_as_kong_cuts_it(host: str, split: tuple[str, int | None]) -> None:
    assert name_and_port(host) == split
