"""The Admin API of `moesif-proxy --workers N`: one listener, counts of all workers, changes in all of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support import APPLICATION_ID
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client
from tests.support.collector import Answer, ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy, failed
from tests.support.upstream import ScriptedUpstream
from tests.workers.test_supervisor import serving, wait_for_workers

TOKEN = "t0ken-of-the-admin"


def get(url: str) -> Any:
    return requests.get(url, timeout=20).json()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def plugin(url: str) -> str:
    (found,) = get(f"{url}/plugins")["data"]
    return f"{url}/plugins/{found['id']}"


def versions(collector: ScriptedCollector, clients: list[Client], path: str) -> set[str]:
    """`api_version` of the events of one more exchange on each connection."""
    before = len(collector.events())
    for client in clients:
        client.exchange("GET", path)
    events = collector.wait_for(before + len(clients))
    return {event["request"]["api_version"] for event in events if event["request"]["uri"].endswith(path)}


def test_counts_are_those_of_all_workers_as_of_now(start: Any, collector: ScriptedCollector) -> None:
    proxy, url = start()
    clients = serving(proxy)
    status = get(f"{url}/status")
    assert status["captured"] == 40
    assert status["captured"] == status["delivered"] + sum(status["waiting"].values()) + sum(status["dropped"].values())
    collector.wait_for(40)
    wait_for(lambda: get(f"{url}/status")["delivered"] == 40)
    assert get(f"{url}/status")["workers"] == {"ready": 2, "wanted": 2, "restarts": 0}
    up = {"state": "up", "account": "accepted"}
    wait_for(lambda: list(get(f"{url}/status")["destinations"].values()) == [up])
    proxy.wait_for_output("the application id is accepted")
    assert proxy.output.count("the application id is accepted") == 1
    metrics = {
        family.name: family.samples
        for family in text_string_to_metric_families(requests.get(f"{url}/metrics", timeout=20).text)
    }
    assert metrics["moesif_events_captured"][0].value == metrics["moesif_events_delivered"][0].value == 40
    assert requests.get(f"{url}/ping", timeout=20).text == "PONG"
    assert requests.get(f"{url}/health", timeout=20).status_code == 200
    head = requests.head(f"{url}/status", timeout=20)
    assert (head.status_code, head.content) == (200, b"")
    for client in clients:
        client.close()
    assert proxy.stop() == 0
    assert exit_counts(proxy.output)["delivered"] == 40


def test_a_receiver_that_refuses_shows_whichever_worker_met_it(start: Any, collector: ScriptedCollector) -> None:
    collector.script = lambda _: Answer(401)
    proxy, url = start()
    serving(proxy, 1)[0].close()
    proxy.wait_for_output("does not accept the application id")
    (state,) = get(f"{url}/status")["destinations"].values()
    assert (state["state"], state["reason"]) == ("unauthorized", "status 401")


def test_a_change_is_in_force_in_all_workers_and_in_one_that_is_started_again(
    start: Any, collector: ScriptedCollector
) -> None:
    proxy, url = start()
    clients = serving(proxy)
    assert versions(collector, clients, "/before") == {"1.0"}
    answer = requests.patch(plugin(url), data={"config.api_version": "2.0"}, timeout=20)
    assert (answer.status_code, answer.json()["config"]["api_version"]) == (200, "2.0")
    assert versions(collector, clients, "/after") == {"2.0"}
    for client in clients:
        client.close()
    first, stays = proxy.workers()
    os.kill(first, signal.SIGKILL)
    wait_for_workers(proxy, 1, without={first, stays})
    wait_for(lambda: get(f"{url}/status")["workers"] == {"ready": 2, "wanted": 2, "restarts": 1})
    os.kill(stays, signal.SIGSTOP)  # what answers now is the new one
    try:
        answered = versions_while_stopped(proxy, collector)
    finally:
        os.kill(stays, signal.SIGCONT)
    assert answered == {"2.0"}


def versions_while_stopped(proxy: MoesifProxy, collector: ScriptedCollector) -> set[str]:
    """Of those connections that the other worker has."""
    clients = [Client(proxy.port) for _ in range(20)]
    for number, client in enumerate(clients):
        client.send(f"GET /again{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    events = collector.wait_for(lambda c: any("/again" in event["request"]["uri"] for event in c.events()))
    found = {event["request"]["api_version"] for event in events if "/again" in event["request"]["uri"]}
    for client in clients:
        client.close()
    return found


def test_what_is_refused_is_refused_by_all(start: Any, collector: ScriptedCollector) -> None:
    proxy, url = start()
    refused = requests.patch(plugin(url), json={"config": {"batch_size": 0, "api_version": "3.0"}}, timeout=20)
    assert (refused.status_code, refused.json()["name"]) == (400, "schema violation")
    again = requests.post(f"{url}/plugins", data={"name": "moesif"}, timeout=20)
    assert again.status_code == 409
    assert requests.patch(f"{url}/plugins/none", json={}, timeout=20).status_code == 404
    assert requests.get(f"{url}/nothing", timeout=20).status_code == 404
    assert requests.post(f"{url}/status", timeout=20).status_code == 405
    broken = requests.post(f"{url}/plugins", data="{", headers={"Content-Type": "application/json"}, timeout=20)
    assert (broken.status_code, broken.json()["message"]) == (400, "Cannot parse JSON body")
    clients = serving(proxy)
    assert versions(collector, clients, "/after") == {"1.0"}
    for client in clients:
        client.close()
    assert APPLICATION_ID not in requests.get(f"{url}/plugins", timeout=20).text + proxy.output
    assert proxy.stop() == 0
    assert "differs now" not in proxy.output


def test_changes_are_kept_in_the_state_file(start: Any, collector: ScriptedCollector, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    proxy, url = start(admin_state=str(kept))
    assert requests.patch(plugin(url), json={"config": {"api_version": "2.0"}}, timeout=20).status_code == 200
    assert proxy.stop() == 0
    assert "2.0" in json.dumps(json.loads(kept.read_text()))
    proxy, url = start(admin_state=str(kept))
    clients = serving(proxy)
    assert versions(collector, clients, "/kept") == {"2.0"}
    for client in clients:
        client.close()


def test_a_worker_that_hangs_holds_nothing_up(start: Any, collector: ScriptedCollector) -> None:
    proxy, url = start()
    hangs = proxy.workers()[0]
    os.kill(hangs, signal.SIGSTOP)
    try:
        assert requests.get(f"{url}/health", timeout=20).status_code == 200
        assert requests.get(f"{url}/plugins", timeout=20).status_code == 200
        assert get(f"{url}/status")["captured"] == 0
    finally:
        os.kill(hangs, signal.SIGCONT)
    assert proxy.stop() == 0


KONG = """
_format_version: "3.0"
services:
- name: orders
  url: http://orders:8080
  routes: [{name: orders, paths: [/orders]}]
"""


def test_a_plugin_of_kongs_is_added_and_removed_in_all_workers(
    start: Any, collector: ScriptedCollector, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG)
    proxy, url = start(kong_config=str(path))
    added = requests.post(
        f"{url}/services/orders/plugins", data={"name": "moesif", "config.api_version": "orders"}, timeout=20
    )
    assert added.status_code == 201
    clients = serving(proxy)
    assert versions(collector, clients, "/orders/1") == {"orders"}
    first, stays = proxy.workers()
    os.kill(first, signal.SIGKILL)
    wait_for_workers(proxy, 1, without={first, stays})
    wait_for(lambda: get(f"{url}/status")["workers"]["ready"] == 2)
    one = f"{url}/plugins/{added.json()['id']}"
    changed = requests.patch(one, data={"config.api_version": "changed"}, timeout=20)
    assert (changed.status_code, changed.json()["config"]["api_version"]) == (200, "changed")
    removed = requests.delete(one, timeout=20)
    assert (removed.status_code, removed.content) == (204, b"")
    assert requests.get(one, timeout=20).status_code == 404
    for client in clients:
        client.close()
    assert proxy.stop() == 0
    assert "differs now" not in proxy.output


def test_what_deck_and_kong_manager_read_and_write_holds_with_workers(
    start: Any, collector: ScriptedCollector, tmp_path: Path
) -> None:
    path = tmp_path / "kong.yml"
    path.write_text(KONG)
    proxy, url = start(kong_config=str(path))
    assert get(f"{url}/")["version"].startswith("3.9")
    assert requests.head(f"{url}/", timeout=20).status_code == 200
    options = requests.options(f"{url}/plugins", timeout=20)
    assert (options.status_code, options.headers["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    (service,) = get(f"{url}/services?size=1000")["data"]
    assert get(f"{url}/services/{service['id']}/routes")["data"] == get(f"{url}/routes")["data"]
    assert [get(f"{url}/{kind}")["data"] for kind in ("consumers", "upstreams")] == [[], []]
    assert get(f"{url}/schemas/plugins/moesif")["fields"]
    below = f"{url}/services/orders/plugins/fresh"
    config = {"api_version": "put"}
    made = requests.put(below, json={"name": "moesif", "config": config}, timeout=20)
    assert (made.status_code, made.json()["instance_name"], made.json()["service"]) == (
        200,
        "fresh",
        {"id": service["id"]},
    )
    clients = serving(proxy)
    assert versions(collector, clients, "/orders/1") == {"put"}
    again = requests.put(below, json={**made.json(), "config": {"api_version": "again"}}, timeout=20)
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    assert versions(collector, clients, "/orders/2") == {"again"}
    assert requests.delete(below, timeout=20).status_code == 204
    assert requests.delete(below, timeout=20).status_code == 404
    for client in clients:
        client.close()
    assert proxy.stop() == 0
    assert "differs now" not in proxy.output


def test_the_listener_asks_for_the_token_and_a_loopback_name(start: Any) -> None:
    proxy, url = start(admin_token=TOKEN)
    assert requests.get(f"{url}/status", timeout=20).status_code == 401
    assert requests.patch(f"{url}/plugins/x", json={}, timeout=20).status_code == 401
    assert requests.get(f"{url}/health", timeout=20).status_code == 200
    shown = {"Kong-Admin-Token": TOKEN}
    assert requests.get(f"{url}/status", headers=shown, timeout=20).status_code == 200
    assert TOKEN not in proxy.output + requests.get(f"{url}/plugins", headers=shown, timeout=20).text


def test_no_process_has_the_token_in_its_environment(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    given = addon_options(collector, admin_listen="127.0.0.1:0", admin_token=TOKEN)
    proxy = moesif_proxy(upstream.url, given, workers=2, forked=False)
    for pid in [proxy.pid, *proxy.workers()]:
        assert TOKEN not in " ".join(Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0"))


def test_another_sites_page_is_refused(start: Any) -> None:
    _, url = start()
    elsewhere = {"Host": "rebound.example.com"}
    assert requests.get(f"{url}/status", headers=elsewhere, timeout=20).status_code == 403
    origin = {"Origin": "http://evil.example.com"}
    assert requests.patch(plugin(url), json={}, headers=origin, timeout=20).status_code == 403
    assert requests.patch(plugin(url), data=b"x" * 70_000, timeout=20).status_code == 413


@pytest.mark.parametrize(
    ("listen", "said"),
    [("nonsense", "admin_listen: must be HOST:PORT"), ("0.0.0.0:0", "admin_token is needed"), (None, "cannot listen")],
)
def test_a_listener_that_cannot_be_ends_the_start(listen: str | None, said: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = listen or f"127.0.0.1:{taken.getsockname()[1]}"
        options = ["--set", "confdir=.", "--set", f"moesif_application_id={APPLICATION_ID}"]
        options += ["--set", "moesif_api_endpoint=http://127.0.0.1:9"]
        arguments = ["--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0", "--workers", "2", *options]
        ended = failed(*arguments, "--set", f"moesif_admin_listen={given}", folder=tmp_path)
    assert ended.returncode == 1, ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if " ERROR " in line)
    assert said in line
    assert "Traceback" not in ended.stderr
