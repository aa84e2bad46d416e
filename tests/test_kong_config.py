"""Kong's own configuration as ours: scopes, several accounts, live reload, the Admin API, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.support import wire
from tests.support.client import exchange
from tests.support.collector import Event, ScriptedCollector
from tests.support.proxy import Mitmdump, failed_start
from tests.support.upstream import ScriptedUpstream
from tests.test_admin import free_port

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
    proxy.wait_for_output("Kong's configuration changed and is in force")
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


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            "- {name: moesif, config: {application_id: a}}\n- {name: moesif, config: {application_id: b}}",
            "UNIQUE violation",
        ),
        ("- {name: moesif, config: {}}", "application_id is missing"),
        ("- {name: moesif, config: {application_id: a, batch_sise: 1}}", "batch_sise: there is no such parameter"),
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


def test_akto_entries_are_read_and_said(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG.format(more="- {name: akto-api-discovery, config: {service_url: http://akto:9091}}"))
    proxy = start(mitmdump, upstream, collector, path)
    proxy.wait_for_output("akto-api-discovery plugins are read and kept")


def test_the_admin_api_page_by_page(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    service = {"id": "s1", "name": "orders", "host": "orders", "port": 80, "protocol": "http"}
    route = {"id": "r1", "name": "list", "paths": ["/orders"], "service": {"id": "s1"}}
    config = {"application_id": "app-orders", "api_version": "by-api"}
    plugin = {"id": "p1", "name": "moesif", "config": config, "service": {"id": "s1"}, "enabled": True}
    with ScriptedUpstream() as kong:
        pages = {
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
