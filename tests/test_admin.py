"""The admin listener of a running proxy: the identity at every reading, health, metrics, and live changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support import APPLICATION_ID
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import Answer, ScriptedCollector
from tests.support.ports import free_port
from tests.support.proxy import Mitmdump, failed_start
from tests.support.traffic import Load, send_many
from tests.support.upstream import ScriptedUpstream
from tests.test_delivery_process import wait_for_status

Start = Callable[..., Mitmdump]


def get(url: str) -> Any:
    return requests.get(url, timeout=10).json()


def get_when(url: str, holds: Callable[[Any], bool]) -> Any:
    """What a collector has received is delivered only when its answer has come back."""
    deadline = time.monotonic() + 30
    while not holds(told := get(url)):
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return told


def receiver_of(url: str) -> Any:
    """The state of the only one, once delivery has started."""
    ((_, receiver),) = get_when(f"{url}/status", lambda told: told["destinations"])["destinations"].items()
    return receiver


def start(
    mitmdump: Start, upstream: ScriptedUpstream, collector: ScriptedCollector, **more: Any
) -> tuple[Mitmdump, str]:
    port = free_port()
    proxy = mitmdump(upstream.url, addon_options(collector, admin_listen=f"127.0.0.1:{port}", **more))
    proxy.wait_for_output("status, metrics and Admin API at")
    return proxy, f"http://127.0.0.1:{port}"


def test_what_is_changed_is_told_without_values(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy, url = start(mitmdump, upstream, collector)
    for config in ({"user_id_header": "S3CR3T", "debug": True}, {"enabled": False}):
        body = config if "enabled" in config else {"config": config}
        assert requests.patch(f"{url}/plugins/moesif", json=body, timeout=10).status_code == 200
    output = proxy.wait_for_output("changed through the Admin API: the options: enabled")
    assert "Admin API: the options: debug, user_id_header" in output
    assert "S3CR3T" not in output
    assert get(f"{url}/status?method=GET&host=x&path=/e")["request"] == {
        "instance": None,
        "why": "enabled is false: nothing is captured",
    }


def test_captured_is_delivered_waiting_and_dropped_at_every_reading(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.enqueue(*[Answer(status) for status in (201, 503, 201, 400, 201, 429)])
    proxy, url = start(mitmdump, upstream, collector, event_queue_size=200)
    (first,) = send_many(proxy.port, 1)
    collector.wait_for(1)  # until then everything waits in memory
    load = Load(proxy.port).start()
    readings = []
    for _ in range(60):
        readings.append(get(f"{url}/status"))
        load.wait_for(5)
    seen = {first, *load.stop()}
    for status in readings:
        waiting = status["waiting"]["memory"] + status["waiting"]["disk"]
        assert status["captured"] == status["delivered"] + waiting + sum(status["dropped"].values())
        assert min(status["waiting"].values()) >= 0
    assert readings[-1]["captured"] > readings[0]["captured"]
    wait_for_status(proxy, lambda status: not any(status["waiting"].values()))
    dropped = get(f"{url}/status")["dropped"]  # where the machine was too slow for so short a queue
    assert len(seen - collector.unique_ids()) == sum(dropped.values()) == dropped.get("queue_full", 0)
    assert proxy.stop() == 0


def test_metrics_health_and_ping(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    proxy, url = start(mitmdump, upstream, collector)
    send_many(proxy.port, 7)
    collector.wait_for(7)
    assert requests.get(f"{url}/ping", timeout=10).text.strip() == "PONG"
    assert requests.get(f"{url}/health", timeout=10).status_code == 200
    text = requests.get(f"{url}/metrics", timeout=10).text
    metrics = {family.name: family.samples for family in text_string_to_metric_families(text)}
    assert metrics["moesif_events_captured"][0].value == 7
    up = {"state": "up", "account": "accepted"}
    get_when(f"{url}/status", lambda told: [*told["destinations"].values()] == [up])
    assert proxy.output.count("moesif: the application id is accepted") == 1


def test_a_receiver_in_trouble_shows(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    collector.script = lambda _: Answer(401)
    proxy, url = start(mitmdump, upstream, collector)
    send_many(proxy.port, 3)
    proxy.wait_for_output("does not accept the application id")
    (state,) = get(f"{url}/status")["destinations"].values()
    assert (state["state"], state["reason"]) == ("unauthorized", "status 401")


def test_a_receiver_that_was_never_tried_is_unknown(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    _, url = start(mitmdump, upstream, collector)
    assert receiver_of(url)["state"] == "unknown"
    assert "moesif_receiver_up{" not in requests.get(f"{url}/metrics", timeout=10).text


def test_the_application_id_is_accepted_where_only_events_were_answered(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """As by a proxy of Moesif's that has no configuration."""
    collector.document_script = lambda _: Answer(404)
    collector.script = lambda _: Answer(201, {"X-Moesif-Config-Etag": "1"})
    proxy, url = start(mitmdump, upstream, collector)
    proxy.wait_for_output("cannot refresh /v1/config and /v1/rules")
    assert "account" not in receiver_of(url)
    send_many(proxy.port, 1)
    line = proxy.wait_for_output("moesif: the application id is accepted")
    assert APPLICATION_ID not in line
    get_when(f"{url}/status", lambda told: next(iter(told["destinations"].values())).get("account") == "accepted")


@pytest.mark.parametrize(
    ("status", "state", "reason"), [(401, "unauthorized", "status 401"), (None, "down", "refuses connections")]
)
def test_what_a_request_for_the_configuration_shows_of_the_receiver_counts(
    status: int | None,
    state: str,
    reason: str,
    mitmdump: Start,
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
) -> None:
    if status is None:
        collector.refuse()
    else:
        collector.document_script = lambda _: Answer(status)
    proxy, url = start(mitmdump, upstream, collector)
    proxy.wait_for_output("cannot refresh /v1/config and /v1/rules")
    assert ("the application id is not accepted, check moesif_application_id" in proxy.output) == (status == 401)
    receiver = receiver_of(url)
    assert receiver["state"] == state
    assert "account" not in receiver
    assert reason in receiver["reason"]
    assert "} 0.0" in requests.get(f"{url}/metrics", timeout=10).text.split("moesif_receiver_up{")[1].splitlines()[0]
    collector.document_script = lambda _: None  # or it would be asked again, and the state be that again
    collector.listen()
    send_many(proxy.port, 1)
    collector.wait_for(1)
    get_when(f"{url}/status", lambda told: [one["state"] for one in told["destinations"].values()] == ["up"])


def test_events_of_an_application_id_that_was_corrected_are_unsent(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    collector.script = lambda received: Answer(401) if received.headers["x-moesif-application-id"] != "R2" else None
    proxy, url = start(mitmdump, upstream, collector, spool_dir=str(tmp_path / "spool"))
    send_many(proxy.port, 1)
    proxy.wait_for_output("does not accept the application id")
    requests.patch(f"{url}/plugins/moesif", data={"config.application_id": "R2"}, timeout=10).raise_for_status()
    proxy.wait_for_output("nobody sends 1 event that came since")
    send_many(proxy.port, 1)
    collector.wait_for(1)
    status = get_when(f"{url}/status", lambda told: told["oldest_waiting"] is None)
    ((former, unsent),) = status["unsent"].items()
    assert (unsent["events"], unsent["state"]) == (1, "not configured")
    assert former not in status["destinations"]


def test_kongs_own_curl_changes_the_running_proxy(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    proxy, url = start(mitmdump, upstream, collector, admin_state=str(kept))
    (plugin,) = get(f"{url}/plugins")["data"]
    answer = requests.patch(f"{url}/plugins/{plugin['id']}", data={"config.api_version": "2.0"}, timeout=10)
    assert answer.status_code == 200
    assert answer.json()["config"]["api_version"] == "2.0"
    exchange(proxy.port)
    (event,) = collector.wait_for(1)
    assert event["request"]["api_version"] == "2.0"
    refused = requests.patch(f"{url}/plugins/{plugin['id']}", data={"config.batch_size": "0"}, timeout=10)
    assert (refused.status_code, refused.json()["name"]) == (400, "schema violation")
    again = requests.post(f"{url}/plugins", data={"name": "moesif"}, timeout=10)
    assert (again.status_code, again.json()["name"]) == (409, "unique constraint violation")
    assert APPLICATION_ID not in get(f"{url}/plugins").__repr__() + kept.read_text()
    assert proxy.stop() == 0
    proxy, url = start(mitmdump, upstream, collector, admin_state=str(kept))
    assert get(f"{url}/plugins")["data"][0]["config"]["api_version"] == "2.0"
    assert "2.0" in json.dumps(json.loads(kept.read_text()))


@pytest.mark.parametrize(
    ("listen", "line"),
    [("0.0.0.0:0", "admin_token"), ("nonsense", "admin_listen"), ("127.0.0.1:99999", "admin_listen")],
)
def test_an_address_that_cannot_be_ends_the_start(listen: str, line: str) -> None:
    ended = failed_start(None, addon_options(admin_listen=listen))
    assert ended.code == 1
    assert line in ended.output
    assert "Traceback" not in ended.output
