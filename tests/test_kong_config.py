"""Kong's own configuration as ours: scopes, several accounts, live reload, the Admin API, and what is wrong."""

from __future__ import annotations

import json
import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.kong.declarative import parse_declarative, unchecked
from mitmproxy_moesif.kong.entities import KongConfig, Plugin
from mitmproxy_moesif.kong.resolver import Resolver
from mitmproxy_moesif.kong.scopes import Scopes
from mitmproxy_moesif.kong.source import NOTHING_YET, STAYS, KongSource, LastListings, read_kong_config
from mitmproxy_moesif.lifecycle import remarks
from tests.support import ADDON_SCRIPT, wire
from tests.support.akto import ScriptedAkto
from tests.support.client import exchange
from tests.support.collector import Event, ScriptedCollector
from tests.support.ports import free_port
from tests.support.proxy import Mitmdump, failed_start
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., Mitmdump]

KONG = """
_format_version: "3.0"
services:
- name: orders
  url: http://orders:8080
  plugins:
  - {{name: moesif, instance_name: of-orders, config: {{application_id: app-orders, api_version: orders}}}}
  routes:
  - name: list
    paths: [/orders]
    hosts: [api.example.com]
  - name: special
    paths: [/orders/special]
    hosts: [api.example.com]
    plugins:
    - {{name: moesif, config: {{application_id: app-special, api_version: special, batch_size: 1}}}}
- name: quiet
  url: http://quiet:8080
  routes: [{{name: quiet, paths: [/quiet]}}]
consumers:
- username: ada
  plugins:
  - {{name: moesif, config: {{application_id: app-ada, api_version: ada}}}}
plugins:
- {{name: key-auth, config: {{}}}}
{more}
"""


def start(
    mitmdump: Start, upstream: ScriptedUpstream, collector: ScriptedCollector, path: Path, **more: str | int
) -> Mitmdump:
    options: dict[str, str | int] = {"kong_config": str(path), "api_endpoint": collector.url, "flush_interval": 50}
    return mitmdump(upstream.url, {f"moesif_{name}": value for name, value in (options | more).items()})


def tags(collector: ScriptedCollector) -> dict[str, str]:
    """Which instance (its api_version) captured which path."""
    return {
        "/" + event["request"]["uri"].split("/", 3)[3]: event["request"]["api_version"] for event in collector.events()
    }


def events(collector: ScriptedCollector) -> list[Event]:
    return collector.events()


def test_the_most_specific_instance_captures_each_with_its_own_account(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    proxy = start(mitmdump, upstream, collector, path)
    for target in ("/orders/7", "/orders/special/1", "/quiet", "/nowhere"):
        exchange(proxy.port, target=target)
    consumer = [("X-Consumer-Username", "ada"), ("X-Kong-Request-Id", "r")]
    exchange(proxy.port, target="/quiet/ada", headers=consumer)
    collector.wait_for(3)
    assert proxy.stop() == 0
    assert tags(collector) == {"/orders/7": "orders", "/orders/special/1": "special", "/quiet/ada": "ada"}
    accounts = {}
    for post in collector.posts():
        for event in post.events:
            accounts[event["request"]["api_version"]] = post.headers["x-moesif-application-id"]
    assert accounts == {"orders": "app-orders", "special": "app-special", "ada": "app-ada"}
    (listed,) = (event for event in collector.events() if event["request"]["uri"].endswith("/orders/7"))
    names = {"service_name": "orders", "route_name": "list", "route_hosts": ["api.example.com"]}
    assert listed["metadata"]["kong"] == names
    assert "app-" not in proxy.output


def test_options_override_the_same_field_of_every_instance(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    proxy = start(mitmdump, upstream, collector, path, api_version="by-option")
    exchange(proxy.port, target="/orders/7")
    collector.wait_for(1)
    assert tags(collector) == {"/orders/7": "by-option"}


def test_a_changed_file_counts_and_a_broken_one_leaves_the_old(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    proxy = start(mitmdump, upstream, collector, path)
    path.write_text(KONG.format(more="- {name: moesif, config: {application_id: g, api_version: global}}"))
    proxy.wait_for_output("Kong's configuration changed and was applied")
    exchange(proxy.port, target="/quiet")
    collector.wait_for(1)
    assert tags(collector) == {"/quiet": "global"}
    path.write_text(KONG.format(more="- {name: moesif, config: {application_id: g, batch_size: 0}}"))
    proxy.wait_for_output("batch_size: should be greater than or equal to 1")
    path.write_text("_format_version: '3.0'\nservices:\n- name: [\n")
    proxy.wait_for_output(f"{path}:")
    exchange(proxy.port, target="/quiet/still")
    collector.wait_for(2)
    assert tags(collector)["/quiet/still"] == "global"


def test_a_file_that_changes_before_it_is_watched_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    settings = parse_settings({"kong_config": str(path)})
    read = read_kong_config(settings)
    path.write_text(KONG.format(more="- {name: cors, config: {}}"))
    seen: queue.Queue[KongConfig] = queue.Queue()
    source = KongSource(settings, seen.put, read, unchecked, LastListings(None, None))
    source.start()
    try:
        assert [plugin.name for plugin in seen.get(timeout=30).plugins].count("cors") == 1
    finally:
        source.stop()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            "- {name: moesif, config: {application_id: a}}\n- {name: moesif, config: {application_id: b}}",
            "UNIQUE violation",
        ),
        ("- {name: moesif, config: {}}", 'kong.yml:26: plugins[1] "moesif": application_id is missing'),
        (
            "- name: moesif\n  config:\n    application_id: a\n    batch_sise: 1",
            'kong.yml:29: plugins[1] "moesif": batch_sise: there is no such parameter; did you mean batch_size?',
        ),
        (
            "- name: moesif\n  config:\n    application_id: a\n    disable_moesif_payload_compression: true",
            'kong.yml:29: plugins[1] "moesif": disable_moesif_payload_compression: an earlier plugin\'s; remove it',
        ),
        ("- {name: akto-api-discovery, config: {}}", '"akto-api-discovery": service_url is missing'),
        (
            "- {name: akto-api-discovery, config: {service_url: akto}}",
            '"akto-api-discovery": service_url: must be an http or https URL',
        ),
        (
            "- {name: akto-api-discovery, config: {servise_url: x}}",
            '"akto-api-discovery": servise_url: there is no such parameter; did you mean service_url?',
        ),
        ("- {name: moesif, service: nobody, config: {application_id: a}}", "nobody"),
        ("- name: [moesif", "kong.yml:"),
    ],
)
def test_a_wrong_file_ends_the_start_with_one_line(more: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=more))
    ended = failed_start(None, {"moesif_kong_config": str(path)})
    assert ended.code == 1
    said = [text for text in ended.output.splitlines() if "moesif:" in text]
    assert len(said) == 1
    assert line in said[0]
    assert "Traceback" not in ended.output


def test_each_exchange_reaches_the_receivers_of_its_instances(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Moesif and Akto have scopes of their own: one, the other, both, or none."""
    path = tmp_path / "kong.yml"
    with ScriptedAkto() as special, ScriptedAkto() as quiet:
        path.write_text(
            KONG.format(
                more=f"- {{name: akto-api-discovery, route: special, config: {{service_url: '{special.url}'}}}}\n"
                f"- {{name: akto-api-discovery, service: quiet, config: {{service_url: '{quiet.url}'}}}}"
            )
        )
        proxy = start(mitmdump, upstream, collector, path)
        for target in ("/orders/7", "/orders/special", "/quiet/1", "/nowhere"):
            exchange(proxy.port, target=target)
        assert [record["path"] for record in special.wait_for(1)] == ["/orders/special"]
        assert [record["path"] for record in quiet.wait_for(1)] == ["/quiet/1"]
        collector.wait_for(2)
        assert proxy.stop() == 0
        assert json.loads(quiet.records[0]["tag"]) == {
            "service": "kong",
            "service_name": "quiet",
            "route_name": "quiet",
        }
        assert tags(collector) == {"/orders/7": "orders", "/orders/special": "special"}
        assert f"[akto-api] {quiet.name}: captured 1, delivered 1, waiting 0, dropped 0" in proxy.output
        assert "moesif: captured 2, delivered 2, waiting 0, dropped 0" in proxy.output


def test_with_akto_in_kongs_configuration_alone_no_application_id_is_needed(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    with ScriptedAkto() as akto:
        path.write_text(
            f"""_format_version: "3.0"
plugins: [{{name: akto-api-discovery, config: {{service_url: "{akto.url}", account_id: 7}}}}]
"""
        )
        proxy = mitmdump(upstream.url, {"moesif_kong_config": str(path)})
        exchange(proxy.port)
        assert akto.wait_for(1)[0]["akto_account_id"] == "7"
        assert proxy.stop() == 0
        assert "application_id" not in proxy.output


def test_akto_is_given_to_a_service_and_changed_through_the_admin_api(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    with ScriptedAkto() as first, ScriptedAkto() as second:
        admin = f"http://127.0.0.1:{free_port()}"
        proxy = start(mitmdump, upstream, collector, path, admin_listen=admin.removeprefix("http://"))
        proxy.wait_for_output("Admin API at")
        wanted = {"name": "akto-api-discovery", "config.service_url": first.url}
        added = requests.post(f"{admin}/services/quiet/plugins", data=wanted, timeout=10)
        assert (added.status_code, added.json()["name"]) == (201, "akto-api-discovery")
        exchange(proxy.port, target="/quiet/1")
        first.wait_for(1)
        changed = {"config.service_url": second.url}
        url = f"{admin}/plugins/{added.json()['id']}"
        assert requests.patch(url, data=changed, timeout=10).json()["config"]["service_url"] == second.url
        exchange(proxy.port, target="/quiet/2")
        exchange(proxy.port, target="/orders/1")
        assert [record["path"] for record in second.wait_for(1)] == ["/quiet/2"]
        refused = requests.patch(url, data={"config.service_url": "akto:9091"}, timeout=10)
        assert (refused.status_code, list(refused.json()["fields"]["config"])) == (400, ["service_url"])
        assert proxy.stop() == 0


def test_the_admin_api_page_by_page(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    service = {"id": "s1", "name": "orders", "host": "orders", "port": 80, "protocol": "http"}
    route = {"id": "r1", "name": "list", "paths": ["/orders"], "service": {"id": "s1"}}
    config = {"application_id": "app-orders", "api_version": "by-api"}
    plugin = {"id": "p1", "name": "moesif", "config": config, "service": {"id": "s1"}, "enabled": True}
    with ScriptedUpstream() as kong:
        pages: dict[str, Any] = {
            "/": {"version": "3.9.3"},
            "/services": {"data": [], "next": "/services?offset=2"},
            "/routes": {"data": [route], "next": None},
            "/plugins": {"data": [plugin], "next": None},
            "/consumers": {"data": [], "next": None},
        }
        last = {"data": [service], "next": None}
        kong.handler = lambda request, connection: connection.send(
            wire.response(200, [], last if b"offset" in request.raw else pages[request.path])
        )
        options = {"kong_admin_url": kong.url, "kong_admin_token": "kong-t0ken", "api_endpoint": collector.url}
        proxy = mitmdump(upstream.url, {f"moesif_{name}": value for name, value in options.items()})
        assert {request.get("kong-admin-token") for request in kong.requests()} == {"kong-t0ken"}
    exchange(proxy.port, target="/orders/7")
    exchange(proxy.port, target="/other")
    collector.wait_for(1)
    assert proxy.stop() == 0
    assert tags(collector) == {"/orders/7": "by-api"}
    assert "kong-t0ken" not in proxy.output


def by_admin_api(kong: ScriptedUpstream, version: dict[str, Any] | None, **listed: Any) -> None:
    """Have the upstream answer as the Admin API of a Kong does; `version` is what `GET /` says, None for a 404."""
    pages: dict[str, Any] = {
        kind: {"data": [], "next": None} for kind in ("services", "routes", "plugins", "consumers")
    }
    pages |= {name: {"data": rows, "next": None} for name, rows in listed.items()}
    for name, page in pages.items():
        kong.answer(f"/{name.replace('__', '/')}", wire.response(200, [], page))
    kong.answer("/", wire.response(404, [], b"{}") if version is None else wire.response(200, [], version))


ORDERS = {"id": "s1", "name": "orders", "host": "orders"}
OF_ORDERS = {"id": "p1", "name": "moesif", "config": {"application_id": "a"}, "service": {"id": "s1"}}


@pytest.mark.parametrize(
    "link",
    [
        "/services?offset=2",
        "/team/services?offset=2&size=1000",
        "{url}/team/services?offset=2",
        "http://kong.invalid/services?offset=2",
    ],
)
def test_the_next_page_is_one_of_the_same_listing_however_it_is_linked(link: str) -> None:
    with ScriptedUpstream() as kong:
        first = {"data": [], "next": link.format(url=kong.url)}
        last: dict[str, Any] = {"data": [ORDERS], "next": None}
        kong.answer(
            "/team/services",
            lambda request, connection: connection.send(
                wire.response(200, [], last if b"offset=2" in request.raw else first)
            ),
        )
        for name in ("routes", "plugins", "consumers"):
            kong.answer(f"/team/{name}", wire.response(200, [], {"data": [], "next": None}))
        kong.answer("/team/", wire.response(200, [], {"version": "3.9.3"}))
        config = read_kong_config(parse_settings({"kong_admin_url": f"{kong.url}/team"}))
    assert config is not None
    assert [service.name for service in config.services] == ["orders"]


@pytest.mark.parametrize("link", ["http://[kong/services?offset=2", "/services", 2])
def test_a_link_that_leads_to_no_other_page_is_told(link: object) -> None:
    with ScriptedUpstream() as kong:
        by_admin_api(kong, {"version": "3.9.3"})
        kong.answer("/services", wire.response(200, [], {"data": [], "next": link}))
        with pytest.raises(SettingsError, match="/services: not a response of Kong's Admin API"):
            read_kong_config(parse_settings({"kong_admin_url": kong.url}))


@pytest.mark.parametrize(
    ("version", "path", "matches"),
    [
        ({"version": "2.8.4"}, r"/orders/\d+$", True),
        ({"version": "2.8.4.1-enterprise-edition"}, r"/orders/\d+$", True),
        ({"version": "3.9.3"}, r"/orders/\d+$", False),
        ({"version": "3.9.3"}, r"~/orders/\d+$", True),
        (None, r"~/orders/\d+$", True),
    ],
)
def test_kongs_version_decides_how_paths_are_read(version: dict[str, Any] | None, path: str, matches: bool) -> None:
    with ScriptedUpstream() as kong:
        by_admin_api(kong, version, services=[ORDERS], routes=[{"id": "r1", "paths": [path], "service": {"id": "s1"}}])
        config = read_kong_config(parse_settings({"kong_admin_url": kong.url}))
    assert config is not None
    assert (Scopes(config).router.match("GET", "/orders/7", "h", {}) is not None) is matches


@pytest.mark.parametrize(
    ("configuration", "route"),
    [
        ({"router_flavor": "traditional_compatible"}, "by-regex"),
        ({"router_flavor": "expressions"}, "by-regex"),
        ({"router_flavor": "traditional"}, "by-two"),
        ({"router_flavor": "another"}, "by-two"),
        ({"router_flavor": ["traditional_compatible"]}, "by-two"),
        (None, "by-two"),
    ],
)
def test_kongs_admin_api_tells_the_flavour_of_its_router(configuration: dict[str, Any] | None, route: str) -> None:
    by_two = {"id": "by-two", "paths": ["/orders"], "methods": ["GET"]}
    by_regex = {"id": "by-regex", "paths": [r"~/orders/\d+$"]}
    with ScriptedUpstream() as kong:
        by_admin_api(kong, {"version": "3.9.3", "configuration": configuration}, routes=[by_two, by_regex])
        config = read_kong_config(parse_settings({"kong_admin_url": kong.url}))
    assert config is not None
    match = Scopes(config).router.match("GET", "/orders/7", "h", {})
    assert match is not None
    assert match.route.id == route


@pytest.mark.parametrize(
    ("flavor", "route"),
    [("auto", "two"), ("traditional", "two"), ("traditional_compatible", "regex"), ("expressions", "regex")],
)
def test_an_option_tells_the_flavour_of_kongs_router(tmp_path: Path, flavor: str, route: str) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(
        '_format_version: "3.0"\nroutes: [{name: two, paths: [/a], methods: [GET]}, {name: regex, paths: [~/a]}]\n'
        "plugins: [{name: moesif, config: {application_id: a}}]\n"
    )
    given = {"kong_config": str(path), "kong_router_flavor": flavor}
    config = read_kong_config(parse_settings(given))
    assert config is not None
    resolver = Resolver(config, given)
    match = resolver.scopes.router.match("GET", "/a", "h", {})
    assert match is not None
    assert match.route.name == route
    assert resolver.describe()["router_flavor"] == flavor.replace("auto", "traditional")


def test_routes_with_expressions_are_the_flavour_of_expressions() -> None:
    routes = '{"_format_version": "3.0", "routes": [{"name": "a", "expression": "http.method == \\"GET\\""}]}'
    assert Resolver(parse_declarative(routes.encode(), "kong.json"), {}).describe()["router_flavor"] == "expressions"


@pytest.mark.parametrize("plugin", ["moesif", None, {"name": ["moesif"]}])
def test_what_is_no_plugin_is_refused_in_one_line(plugin: object) -> None:
    with ScriptedUpstream() as kong:
        by_admin_api(kong, {"version": "3.9.3"}, plugins=[plugin])
        with pytest.raises(SettingsError, match=r"^kong_admin_url: Admin API: plugins\[0\].*: expected a "):
            read_kong_config(parse_settings({"kong_admin_url": kong.url}))


BEYOND_RE2 = """
_format_version: "3.0"
routes:
- {name: special, paths: ["~/orders/(?!public)"], headers: {x: ["1"]}}
- {name: odd, paths: [/odd], headers: {x: ["~*a{2000}"]}}
- {name: all, paths: [/]}
plugins:
- name: moesif
  config: {application_id: a}
"""


@pytest.mark.parametrize("flavor", ["traditional_compatible", "expressions"])
def test_a_pattern_that_a_newer_flavour_does_not_understand_has_no_request_taken_for_another_routes(
    flavor: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"kong_router_flavor": flavor}
    everyone = parse_declarative(BEYOND_RE2.encode(), "kong.yml")
    resolver = Resolver(everyone, given)
    assert resolver.scopes.router.match("GET", "/orders/7", "h", {"x": ["1"]}) is None
    assert "route 'special' is not understood: invalid regex: '^/orders/(?!public)'" in caplog.text
    assert "route 'odd' is not understood: invalid regex: 'a{2000}'" in caplog.text
    told = len(caplog.records)
    Resolver(replace(everyone, version=None), given, resolver)
    assert len(caplog.records) == told
    for name in ("special", "all"):
        of_route = parse_declarative(f"{BEYOND_RE2}  route: {name}\n".encode(), "kong.yml")
        with pytest.raises(SettingsError, match=r"^kong_config: route 'special' is not understood: "):
            Resolver(of_route, given)
        assert Resolver(of_route, {}).instances


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (wire.response(403, [], b"{}"), "status 403, but Kong's version is needed to read paths"),
        (wire.response(200, [], b"hello"), "the response does not contain Kong's version"),
        (wire.response(200, [], {"tagline": "x"}), "the response does not contain Kong's version"),
        (wire.response(200, [], {"version": "x"}), "the response does not contain Kong's version"),
    ],
)
def test_a_kong_that_does_not_tell_its_version_is_refused(answer: bytes, message: str) -> None:
    with ScriptedUpstream() as kong:
        kong.answer("/", answer)
        with pytest.raises(SettingsError, match=f"^kong_admin_url: .*{message}"):
            read_kong_config(parse_settings({"kong_admin_url": kong.url}))


@pytest.mark.parametrize("name", ["kong_config", "kong_admin_url"])
def test_what_is_wrong_is_told_with_the_option_that_names_the_source(name: str) -> None:
    one, another = (Plugin(id=id_, name="moesif", config={"application_id": "a"}) for id_ in ("p1", "p2"))
    given = {name: "http://kong:8001", "sample_rate": 12}
    with pytest.raises(SettingsError, match=f"^{name}: UNIQUE violation"):
        Resolver(KongConfig(plugins=(one, another)), given)
    with pytest.raises(SettingsError, match=f"^{name}: plugin 'p1': batch_size: "):
        Resolver(KongConfig(plugins=(one.model_copy(update={"config": {"batch_size": 0}}),)), given)


def test_a_second_source_is_told_to_have_no_effect() -> None:
    both = parse_settings({"kong_config": "/kong.yml", "kong_admin_url": "http://kong:8001"})
    assert "no effect beside kong_config: kong_admin_url" in list(remarks(both))
    assert not [*remarks(parse_settings({"kong_admin_url": "http://kong:8001"}))]


def test_where_nothing_is_known_nothing_is_told_to_stay_in_force(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedUpstream(refusing=True) as kong:
        settings = parse_settings({"kong_admin_url": kong.url})
        for current in (None, KongConfig()):
            KongSource(settings, lambda _: None, current, unchecked, LastListings(None, None))._look()
    nothing_yet, stays = caplog.messages
    assert nothing_yet.endswith(f"; {NOTHING_YET}")
    assert stays.endswith(f"; {STAYS}")


def test_the_admin_api_tells_who_is_in_a_group() -> None:
    plugin = {"id": "p1", "name": "moesif", "config": {}, "consumer_group": {"id": "g1"}}
    with ScriptedUpstream() as kong:
        by_admin_api(
            kong,
            {"version": "3.9.3"},
            plugins=[plugin],
            consumers=[{"id": "c1", "username": "ada"}, {"id": "c2", "username": "bob"}],
            consumer_groups=[{"id": "g1", "name": "gold"}],
            consumer_groups__g1__consumers=[{"id": "c1", "username": "ada"}],
        )
        config = read_kong_config(parse_settings({"kong_admin_url": kong.url}))
    assert config is not None
    assert [consumer.group_ids for consumer in config.consumers] == [("g1",), ()]


def test_a_header_on_two_lines_is_two_values_to_the_router(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    header = "- {name: green, paths: [/], headers: {X-Tenant: [green]}, service: quiet, plugins: [{name: moesif, "
    path.write_text(
        KONG.format(more="") + f"routes:\n{header}config: {{application_id: app-green, api_version: green}}}}]}}\n"
    )
    proxy = start(mitmdump, upstream, collector, path)
    exchange(proxy.port, target="/1", headers=[("X-Tenant", "blue, green")])
    exchange(proxy.port, target="/2", headers=[("X-Tenant", "blue"), ("x-tenant", "Green")])
    collector.wait_for(1)
    assert proxy.stop() == 0
    assert tags(collector) == {"/2": "green"}


def test_routes_with_expressions_decide_by_priority(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    routes = [
        {"name": "stream", "protocols": ["tcp"], "expression": "net.dst.port == 9000"},
        {"name": "all", "expression": 'http.path ^= "/"', "priority": 1},
        {"name": "special", "expression": 'http.path ^= "/orders" && http.headers.x_vip == "1"', "priority": 2},
    ]
    plugins = [
        {"name": "moesif", "route": name, "config": {"application_id": f"app-{name}", "api_version": name}}
        for name in ("all", "special")
    ]
    path.write_text(json.dumps({"_format_version": "3.0", "routes": routes, "plugins": plugins}))
    proxy = start(mitmdump, upstream, collector, path)
    exchange(proxy.port, target="/orders/1")
    exchange(proxy.port, target="/orders/2", headers=[("X-Vip", "1")])
    collector.wait_for(2)
    assert proxy.stop() == 0
    assert tags(collector) == {"/orders/1": "all", "/orders/2": "special"}


def test_an_expression_that_is_not_understood_is_a_warning_where_no_instance_depends_on_routes(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    strange = "- {name: strange, expression: 'tls.alpn == \"h2\"'}"
    everyone = "plugins: [{name: moesif, config: {application_id: app-all}}]"
    path.write_text(f"_format_version: '3.0'\nroutes:\n{strange}\n- {{name: all, paths: [/]}}\n{everyone}\n")
    proxy = start(mitmdump, upstream, collector, path)
    proxy.wait_for_output('kong.yml:3: routes[0] "strange": expression: tls.alpn: is not understood here')
    exchange(proxy.port, target="/orders/1")
    (event,) = collector.wait_for(1)
    assert "route_name" not in event.get("metadata", {}).get("kong", {}), "it may be on the other one"
    path.write_text(path.read_text().replace("name: moesif,", "name: moesif, route: all,"))
    proxy.wait_for_output("keeping the previous configuration")
    assert proxy.stop() == 0


def listings(kong: ScriptedUpstream) -> None:
    """Kong's Admin API with one global instance."""
    plugin = {"id": "p1", "name": "moesif", "config": {"application_id": "app-1", "api_version": "by-api"}}
    by_admin_api(kong, {"version": "3.9.3"}, plugins=[plugin])


@pytest.mark.parametrize("how", ["refuses", "answers 503"])
def test_a_start_while_the_admin_api_is_away_has_what_it_said_last(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path, how: str
) -> None:
    with ScriptedUpstream() as kong:
        listings(kong)
        options = {"moesif_kong_admin_url": kong.url, "moesif_api_endpoint": collector.url}
        assert mitmdump(upstream.url, options, folder=tmp_path).stop() == 0
        if how == "refuses":
            kong.refuse()
            why = f"{kong.url.removeprefix('http://')} refuses connections: nothing listens there"
        else:
            kong.answer("/", wire.response(503))
            why = "it answers with status 503"
        proxy = mitmdump(upstream.url, options, folder=tmp_path)
    assert f"kong_admin_url: {why}; using the last known configuration until it answers" in proxy.output
    exchange(proxy.port, target="/kept")
    collector.wait_for(1)
    assert tags(collector) == {"/kept": "by-api"}
    (kept,) = (tmp_path / "moesif-spool").glob("kong-*.json")
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("account", [{}, {"moesif_application_id": "of-the-options"}])
def test_without_anything_known_nothing_is_captured_until_the_admin_api_answers(
    mitmdump: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    account: dict[str, str],
) -> None:
    """Also not under the options: what Kong's entry would mask must not be sent."""
    kept = tmp_path / "kept.json"
    change = {"plugins": {"p1": {"config": {"api_version": "by-change"}}}}
    kept.write_text(json.dumps(change))
    with ScriptedUpstream() as kong:
        kong.refuse()
        port = free_port()
        options = {
            "moesif_kong_admin_url": kong.url,
            "moesif_api_endpoint": collector.url,
            "moesif_admin_listen": f"127.0.0.1:{port}",
            "moesif_admin_state": str(kept),
        }
        proxy = mitmdump(upstream.url, {**options, **account})
        assert "nothing is captured until it answers" in proxy.output
        exchange(proxy.port, target="/before?token=SECRET")
        listings(kong)
        kong.listen()
        proxy.wait_for_output("was applied")
        wait_for_instance(port)
        exchange(proxy.port, target="/after")
    collector.wait_for(1)
    assert proxy.stop() == 0
    assert tags(collector) == {"/after": "by-change"}
    assert "moesif: captured 2, delivered 1, waiting 0, dropped 1 (kong_unknown 1)" in proxy.output
    assert "SECRET" not in proxy.output
    assert json.loads(kept.read_text()) == change


def wait_for_instance(port: int) -> None:
    """Until what the Admin API changed of Kong's entry is in force."""
    deadline = time.monotonic() + 10
    while "by-change" not in requests.get(f"http://127.0.0.1:{port}/plugins", timeout=10).text:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_status_tells_which_instance_applies_and_why(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    port = free_port()
    proxy = start(mitmdump, upstream, collector, path, admin_listen=f"127.0.0.1:{port}")
    proxy.wait_for_output("Admin API at")
    query = {"method": "GET", "host": "api.example.com", "path": "/orders/7"}
    status = requests.get(f"http://127.0.0.1:{port}/status", params=query, timeout=10).json()
    assert status["kong"]["routes"] == 3
    assert status["request"]["instance"]["instance_name"] == "of-orders"
    assert 'service "orders"' in status["request"]["why"]
    assert "app-" not in json.dumps(status)


# --- through the Admin API -----------------------------------------------------------------------------------------


class Admin:
    """The proxy's Admin API, as curl uses it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def __call__(self, method: str, path: str, status: int, **form: str) -> Any:
        """The answer's JSON; `__` stands for a dot in a field's name."""
        data = {name.replace("__", "."): value for name, value in form.items()}
        answer = requests.request(method, self.url + path, data=data or None, timeout=10)
        assert answer.status_code == status, answer.text
        assert "app-" not in answer.text
        return answer.json() if answer.content else None


def start_with_admin(
    mitmdump: Start, upstream: ScriptedUpstream, collector: ScriptedCollector, path: Path, **more: str | int
) -> tuple[Mitmdump, Admin]:
    port = free_port()
    proxy = start(mitmdump, upstream, collector, path, admin_listen=f"127.0.0.1:{port}", **more)
    proxy.wait_for_output("Admin API at")
    return proxy, Admin(port)


def accounts(collector: ScriptedCollector) -> dict[str, str]:
    """Which account got the event of which path."""
    return {
        "/" + event["request"]["uri"].split("/", 3)[3]: post.headers["x-moesif-application-id"]
        for post in collector.posts()
        for event in post.events
    }


def test_a_patched_instance_captures_for_its_new_account(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path, kept = tmp_path / "kong.yml", tmp_path / "kept.json"
    path.write_text(KONG.format(more=""))
    proxy, admin = start_with_admin(mitmdump, upstream, collector, path, admin_state=str(kept))
    listed = admin("GET", "/plugins", 200)["data"]
    assert [plugin["instance_name"] for plugin in listed] == ["moesif", "of-orders", None, None]
    (of_orders,) = admin("GET", "/services/orders/plugins", 200)["data"]
    assert of_orders == admin("GET", "/plugins/of-orders", 200) == admin("GET", f"/plugins/{of_orders['id']}", 200)
    assert of_orders["config"]["application_id"] == "***"

    changed = admin("PATCH", "/plugins/of-orders", 200, config__application_id="app-new", config__api_version="live")
    assert (changed["config"]["application_id"], changed["config"]["api_version"]) == ("***", "live")
    exchange(proxy.port, target="/orders/1")
    collector.wait_for(1)
    assert admin("PATCH", "/plugins/of-orders", 400, config__batch_size="0")["name"] == "schema violation"

    path.write_text(KONG.format(more="- {name: moesif, config: {application_id: app-global, api_version: global}}"))
    proxy.wait_for_output("Kong's configuration changed and was applied")
    for target in ("/orders/2", "/quiet/2"):
        exchange(proxy.port, target=target)
    collector.wait_for(3)
    assert accounts(collector) == {"/orders/1": "app-new", "/orders/2": "app-new", "/quiet/2": "app-global"}
    assert tags(collector) == {"/orders/1": "live", "/orders/2": "live", "/quiet/2": "global"}

    admin("PATCH", "/plugins/of-orders", 200, enabled="false")
    exchange(proxy.port, target="/orders/3")
    collector.wait_for(4)
    assert accounts(collector)["/orders/3"] == "app-global"
    assert proxy.stop() == 0
    assert "app-" not in proxy.output + kept.read_text()

    proxy, admin = start_with_admin(mitmdump, upstream, collector, path, admin_state=str(kept))
    again = admin("GET", "/plugins/of-orders", 200)
    assert (again["enabled"], again["config"]["api_version"]) == (False, "live")
    exchange(proxy.port, target="/orders/4")
    collector.wait_for(5)
    assert accounts(collector)["/orders/4"] == "app-global"


def test_the_admin_api_knows_kongs_entries_from_its_first_answer_on(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path, port = tmp_path / "kong.yml", free_port()
    path.write_text(KONG.format(more=""))
    first: list[int] = []

    def ask() -> None:
        while not first:
            with suppress(requests.ConnectionError):
                first.append(requests.get(f"http://127.0.0.1:{port}/plugins/of-orders", timeout=10).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    start(mitmdump, upstream, collector, path, admin_listen=f"127.0.0.1:{port}")
    asking.join()
    assert first == [200]


def test_the_last_entry_that_goes_is_told_and_its_exchanges_are_counted(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Taken out of Kong, where the addon asked for it: nobody is left to send to."""
    path = tmp_path / "kong.yml"
    without = '_format_version: "3.0"\nplugins: []\n'
    path.write_text(without.replace("[]", "[{name: moesif, config: {application_id: A, request_body_masks: [pin]}}]"))
    proxy, admin = start_with_admin(mitmdump, upstream, collector, path, debug="true")
    path.write_text(without)
    proxy.wait_for_output("Kong's configuration changed and was applied: 0 services, 0 routes, 0 instances")
    proxy.wait_for_output(f"nothing is captured: {path} has no enabled moesif entry, and application_id is")
    proxy.wait_for_output("moesif: masks: none;")
    exchange(proxy.port, target="/orders/1")
    proxy.wait_for_output("status 200: no_instance")
    status = admin("GET", "/status", 200)
    assert (status["excluded"], status["captured"]) == (1, 0)
    assert proxy.stop() == 0


def test_a_change_of_an_entry_without_a_name_is_told_with_what_it_is_for(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    proxy, admin = start_with_admin(mitmdump, upstream, collector, path)
    (special,) = admin("GET", "/routes/special/plugins", 200)["data"]
    admin("PATCH", f"/plugins/{special['id']}", 200, config__batch_size="5")
    proxy.wait_for_output(f'changed through the Admin API: route "special" ({special["id"]}): batch_size')
    admin("PATCH", "/plugins/of-orders", 200, config__batch_size="5")
    proxy.wait_for_output("changed through the Admin API: of-orders: batch_size")
    assert proxy.stop() == 0


def test_the_masks_that_go_with_an_entry_are_told(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    without = '_format_version: "3.0"\nplugins: []\n'
    path.write_text(without.replace("[]", "[{name: moesif, config: {request_body_masks: [pin]}}]"))
    proxy = start(mitmdump, upstream, collector, path, application_id="A")
    path.write_text(without)
    proxy.wait_for_output("moesif: masks: none;")
    exchange(proxy.port, target="/orders/1")
    collector.wait_for(1)
    assert proxy.stop() == 0
    assert "nothing is captured" not in proxy.output


def test_what_overrides_kongs_entries_is_told_again_when_it_changes_live(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    entry = "{name: moesif, instance_name: of-all, config: {application_id: app-all, api_version: of-file}}"
    path.write_text(f'_format_version: "3.0"\nplugins: [{entry}]\n')
    proxy, admin = start_with_admin(mitmdump, upstream, collector, path)

    def in_status() -> bool:
        return "moesif_api_version" in admin("GET", "/status", 200)["kong"]["overrides"]

    assert not in_status()
    admin("PATCH", "/plugins/moesif", 200, config__api_version="s3cret")
    assert in_status()
    proxy.wait_for_output("moesif: overrides: --set moesif_api_version: in effect instead of Kong's entries")
    admin("PATCH", "/plugins/of-all", 200, config__api_version="live")  # outdoes the option
    assert not in_status()
    proxy.wait_for_output("moesif: overrides: none any more")
    assert proxy.stop() == 0
    assert "s3cret" not in proxy.output


def test_an_instance_comes_and_goes_with_kongs_own_curl_lines(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more=""))
    proxy, admin = start_with_admin(mitmdump, upstream, collector, path)
    form = {"name": "moesif", "config__application_id": "app-quiet", "config__api_version": "posted"}
    added = admin("POST", "/services/quiet/plugins", 201, **form)
    exchange(proxy.port, target="/quiet/1")
    collector.wait_for(1)
    assert accounts(collector) == {"/quiet/1": "app-quiet"}

    assert admin("POST", "/plugins", 409, **form, service__name="quiet")["code"] == 5
    assert admin("POST", "/plugins", 400, **form, service__id="nobody")["name"] == "foreign key violation"
    assert admin("POST", "/plugins", 400, **form, service__name="nobody")["name"] == "foreign keys unresolved"
    admin("POST", "/services/nobody/plugins", 404, **form)
    status = admin("GET", "/status?host=h&path=/quiet", 200)
    assert status["request"]["instance"]["id"] == added["id"]
    loaded = {plugin["id"]: plugin["admin_api"] for plugin in status["kong"]["instances"]}
    assert (loaded.pop(added["id"]), set(loaded.values())) == ("created", {None})

    admin("DELETE", f"/plugins/{added['id']}", 204)
    assert admin("DELETE", "/plugins/of-orders", 405)["name"] == "operation unsupported"
    for target in ("/quiet/2", "/orders/2"):
        exchange(proxy.port, target=target)
    collector.wait_for(2)
    assert proxy.stop() == 0
    assert accounts(collector) == {"/quiet/1": "app-quiet", "/orders/2": "app-orders"}
    assert "app-" not in proxy.output


def test_beside_an_added_instance_the_options_capture_the_rest(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    service = "{name: quiet, url: 'http://quiet', routes: [{name: quiet, paths: [/quiet]}]}"
    path.write_text(f"_format_version: '3.0'\nservices: [{service}]\n")
    proxy, admin = start_with_admin(mitmdump, upstream, collector, path, application_id="app-options")
    admin("POST", "/routes/quiet/plugins", 201, name="moesif", config__application_id="app-quiet")
    assert admin("POST", "/plugins", 409, name="moesif")["name"] == "unique constraint violation"
    for target in ("/quiet/1", "/other"):
        exchange(proxy.port, target=target)
    collector.wait_for(2)
    assert accounts(collector) == {"/quiet/1": "app-quiet", "/other": "app-options"}
    admin("PATCH", "/plugins/moesif", 200, config__api_version="options")
    exchange(proxy.port, target="/quiet/2")
    collector.wait_for(3)
    assert (accounts(collector)["/quiet/2"], tags(collector)["/quiet/2"]) == ("app-quiet", "options")


def test_after_a_reload_of_the_script_changes_still_count(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """What was changed before, what is changed through the Admin API after, and what the file says after."""
    addon, path = tmp_path / "addon", tmp_path / "kong.yml"
    shutil.copytree(ADDON_SCRIPT.parent, addon, ignore=shutil.ignore_patterns("__pycache__"))
    path.write_text(KONG.format(more=""))
    port = free_port()
    options = {"kong_config": str(path), "api_endpoint": collector.url, "flush_interval": 50}
    options["admin_listen"] = f"127.0.0.1:{port}"
    proxy = mitmdump(
        upstream.url, {f"moesif_{name}": value for name, value in options.items()}, scripts=[addon / "moesif.py"]
    )
    proxy.wait_for_output("Admin API at")
    admin = Admin(port)
    admin("PATCH", "/plugins/of-orders", 200, config__api_version="before")
    script = addon / "moesif.py"
    script.write_text(script.read_text() + "\n# changed\n")
    proxy.wait_for_output("Loading script", count=2)
    exchange(proxy.port, target="/orders/1")
    collector.wait_for(1)
    admin("PATCH", "/plugins/of-orders", 200, config__api_version="after")
    exchange(proxy.port, target="/orders/2")
    collector.wait_for(2)
    path.write_text(KONG.format(more="- {name: moesif, config: {application_id: app-global, api_version: global}}"))
    proxy.wait_for_output("Kong's configuration changed and was applied")
    exchange(proxy.port, target="/quiet/3")
    collector.wait_for(3)
    assert tags(collector) == {"/orders/1": "before", "/orders/2": "after", "/quiet/3": "global"}
    assert proxy.stop() == 0
    assert "moesif: masks:" not in proxy.output, "they are as they were"
