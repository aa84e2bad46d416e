"""Akto beside Moesif, through the real mitmdump: each gets its own, and neither waits for the other."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mitmproxy_moesif.web.server import free_port
from tests.support.addon import addon_options, exit_counts
from tests.support.akto import ScriptedAkto, forgotten
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option, helpers_of
from tests.support.upstream import ScriptedUpstream

SECRET = "s3cr3t-9c11"


@pytest.fixture
def akto() -> Iterator[ScriptedAkto]:
    with ScriptedAkto() as akto:
        yield akto


def akto_counts(output: str) -> dict[str, Any]:
    """The numbers of Akto's exit line."""
    (line,) = [line for line in output.splitlines() if line.startswith("[akto-api] akto@")]
    return exit_counts(f"moesif: {line.partition(': ')[2]}")


def both(collector: ScriptedCollector, akto: ScriptedAkto, **more: Option) -> dict[str, Option]:
    return {**addon_options(collector), "akto_service_url": akto.url, **more}


def send(port: int, count: int, **request: Any) -> None:
    for number in range(count):
        exchange(port, target=f"/{number}", **request)


@pytest.mark.parametrize("background", ["process", "threads"])
def test_each_exchange_reaches_both_and_each_has_its_exit_line(
    mitmdump: Callable[..., Mitmdump],
    upstream: ScriptedUpstream,
    collector: ScriptedCollector,
    akto: ScriptedAkto,
    background: str,
) -> None:
    proxy = mitmdump(upstream.url, {**both(collector, akto), "moesif_background": background})
    send(proxy.port, 5)
    assert {record["path"] for record in akto.wait_for(5)} == {f"/{number}" for number in range(5)}
    collector.wait_for(5)
    assert proxy.stop() == 0
    assert [forgotten(record) for record in akto.records] == [None] * 5
    for counts in (exit_counts(proxy.output), akto_counts(proxy.output)):
        assert counts == {"captured": 5, "delivered": 5, "waiting": 0, "dropped": 0, "causes": {}}


def test_a_record_names_the_host_of_an_http2_request(
    moesif_proxy: Callable[..., MoesifProxy], upstream: ScriptedUpstream, akto: ScriptedAkto, tmp_path: Path
) -> None:
    """Akto tells APIs apart by the header; HTTP/2 has `:authority` in its place."""
    tls = ("--tls-cert", str(make_pem(tmp_path)), "--set", "http2=true")
    proxy = moesif_proxy(upstream.url, {"akto_service_url": akto.url}, *tls)
    with H2Client(proxy.port) as client:
        for authority in ("api.example.com", "api.example.com:8443"):
            client.exchange("GET", "/", authority=authority)
    hosts = [json.loads(record["requestHeaders"])["host"] for record in akto.wait_for(2)]
    assert hosts == ["api.example.com", "api.example.com:8443"]


def test_akto_alone_needs_no_application_id_and_counts_nothing_for_moesif(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, akto: ScriptedAkto
) -> None:
    environment = {"AKTO_SERVICE_URL": akto.url, "AKTO_API_KEY": SECRET, "AKTO_LOG_LEVEL": "info"}
    proxy = mitmdump(upstream.url, environment=environment)
    send(proxy.port, 3)
    akto.wait_for(3)
    proxy.wait_for_output("[akto-api] ingest ok")
    assert proxy.stop() == 0
    assert akto.headers[0]["x-api-key"] == SECRET
    assert "[akto-api] -> GET /0 200" in proxy.output
    assert SECRET not in proxy.output
    assert exit_counts(proxy.output)["captured"] == 0
    assert akto_counts(proxy.output)["delivered"] == 3


def test_what_is_masked_reaches_neither(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, collector: ScriptedCollector, akto: ScriptedAkto
) -> None:
    masks: dict[str, Option] = {"moesif_request_body_masks": "pin", "moesif_request_query_masks": "key"}
    proxy = mitmdump(upstream.url, {**both(collector, akto, akto_log_level="debug"), **masks})
    headers = [("Authorization", f"Bearer {SECRET}"), ("Content-Type", "application/json")]
    exchange(proxy.port, "POST", f"/a?key={SECRET}", headers=headers, body=f'{{"pin":"{SECRET}"}}'.encode())
    (record,) = akto.wait_for(1)
    collector.wait_for(1)
    assert proxy.stop() == 0
    assert (record["path"], record["requestPayload"]) == ("/a?key=*****", "{}")
    assert SECRET not in f"{record}{collector.events()}{proxy.output}"


def test_a_black_hole_as_akto_delays_nothing_of_moesif(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, collector: ScriptedCollector
) -> None:
    with ScriptedAkto(held=True) as akto:
        proxy = mitmdump(upstream.url, {**both(collector, akto), "moesif_admin_listen": "127.0.0.1:0"})
        send(proxy.port, 200)
        assert len(collector.wait_for(200)) == 200
        assert proxy.stop() == 0
    moesif, lost = exit_counts(proxy.output), akto_counts(proxy.output)
    assert (moesif["captured"], moesif["delivered"]) == (200, 200)
    assert (lost["captured"], lost["delivered"], lost["waiting"]) == (200, 0, 0)
    assert lost["dropped"] == 200


def test_a_dead_moesif_costs_akto_nothing(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, akto: ScriptedAkto, tmp_path: Path
) -> None:
    with ScriptedCollector(refusing=True) as collector:
        proxy = mitmdump(upstream.url, {**both(collector, akto), "moesif_shutdown_timeout": 500}, folder=tmp_path)
        send(proxy.port, 20)
        akto.wait_for(20)
        assert proxy.stop() == 0
    assert akto_counts(proxy.output)["delivered"] == 20
    assert exit_counts(proxy.output)["waiting"] == 20


def test_an_akto_that_is_away_is_told_once_and_each_record_is_tried_once(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, collector: ScriptedCollector
) -> None:
    with ScriptedAkto(refusing=True) as akto:
        proxy = mitmdump(upstream.url, both(collector, akto))
        for _ in range(3):
            exchange(proxy.port)
            proxy.wait_for_output("connect failed (Akto unreachable)")
        assert proxy.stop() == 0
    assert proxy.output.count("[akto-api] connect failed (Akto unreachable)") == 1
    assert akto_counts(proxy.output)["causes"] == {"unavailable": 3}


def test_status_and_metrics_name_the_receiver(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, collector: ScriptedCollector, akto: ScriptedAkto
) -> None:
    akto.status = 422
    proxy = mitmdump(upstream.url, {**both(collector, akto), "moesif_admin_listen": "127.0.0.1:0"})
    admin = proxy.wait_for_output("Admin API at ").partition("Admin API at ")[2].split()[0]
    first = requests.get(f"{admin}/metrics", timeout=10).text
    assert f'moesif_records_dropped_total{{cause="refused",receiver="{akto.name}"}} 0.0' in first
    assert 'moesif_faults_total{kind="sender"} 0.0' in first
    send(proxy.port, 2)
    proxy.wait_for_output("[akto-api] ingest failed (status 422)")
    status = requests.get(f"{admin}/status", timeout=10).json()
    assert status["receivers"][akto.name]["captured"] == 2
    assert status["destinations"][akto.name]["state"] == "down"
    metrics = requests.get(f"{admin}/metrics", timeout=10).text
    assert f'moesif_records_captured_total{{receiver="{akto.name}"}} 2.0' in metrics
    assert f'moesif_receiver_up{{destination="{akto.name}"}} 0.0' in metrics


def test_an_akto_that_another_took_the_place_of_is_no_more_told_as_down(
    moesif_proxy: Callable[..., MoesifProxy], upstream: ScriptedUpstream, akto: ScriptedAkto
) -> None:
    """It would be for as long as the process runs, and `moesif_receiver_up` with it."""
    listen = f"127.0.0.1:{free_port()}"
    with ScriptedAkto(refusing=True) as former:
        proxy = moesif_proxy(upstream.url, {"akto_service_url": former.url, "moesif_admin_listen": listen})
        send(proxy.port, 1)
        proxy.wait_for_output("connect failed (Akto unreachable)")
        change = {"config.akto_service_url": akto.url}
        assert requests.patch(f"http://{listen}/plugins/moesif", data=change, timeout=10).status_code == 200
        send(proxy.port, 1)
        akto.wait_for(1)
        for _ in range(200):  # the delivery process tells it within 0.1 s
            told = requests.get(f"http://{listen}/status", timeout=10).json()["destinations"]
            if told.get(akto.name, {}).get("state") == "up":
                break
        assert {name: one["state"] for name, one in told.items()} == {akto.name: "up"}


def test_workers_are_counted_together(
    moesif_proxy: Callable[..., MoesifProxy],
    upstream: ScriptedUpstream,
    collector: ScriptedCollector,
    akto: ScriptedAkto,
) -> None:
    options = {**both(collector, akto), "moesif_admin_listen": f"127.0.0.1:{free_port()}"}
    proxy = moesif_proxy(upstream.url, options, workers=2)
    first = requests.get(f"http://{options['moesif_admin_listen']}/metrics", timeout=10).text
    assert f'moesif_records_dropped_total{{cause="unavailable",receiver="{akto.name}"}} 0.0' in first
    send(proxy.port, 20)
    akto.wait_for(20)
    assert proxy.stop() == 0
    counts = akto_counts(proxy.output)
    assert (counts["captured"], counts["delivered"], counts["waiting"]) == (20, 20, 0)
    assert exit_counts(proxy.output)["captured"] == 20


def test_what_a_killed_delivery_process_had_is_counted(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, collector: ScriptedCollector
) -> None:
    with ScriptedAkto(held=True) as akto:
        proxy = mitmdump(upstream.url, both(collector, akto))
        send(proxy.port, 5)
        akto.wait_for(5)
        (helper,) = helpers_of(proxy.pid)
        os.kill(helper, signal.SIGKILL)
        akto.release()
        proxy.wait_for_output("delivery process", timeout=30)
        exchange(proxy.port, target="/after")
        akto.wait_for(lambda akto: any(record["path"] == "/after" for record in akto.records))
        assert proxy.stop() == 0
    counts = akto_counts(proxy.output)
    assert (counts["captured"], counts["waiting"]) == (6, 0)
    assert counts["delivered"] + counts["dropped"] == 6
    assert counts["causes"].get("helper_died", 0) == 5
