"""The dashboard and the alerts: run by a real Prometheus against a real proxy; and the stack that brings both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mitmproxy_moesif.proxy.arguments import parse
from mitmproxy_moesif.web.access import Address, Gate
from mitmproxy_moesif.web.server import free_port
from tests.compose.tools import (
    COMPOSE,
    REQUIRED,
    Published,
    compose_config,
    environment,
    leading_comment,
    parsed,
    published,
    resolve,
)
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector, refuse_events
from tests.support.moesif_proxy import MoesifProxy
from tests.support.prometheus import Prometheus, Samples, program, prometheus
from tests.support.upstream import ScriptedUpstream

FOLDER = COMPOSE / "observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
TOKEN = "t0ken-5ecre7"
GIVEN = {**REQUIRED, "MOESIF_ADMIN_TOKEN": TOKEN}
STACKS = ("front", "behind", "kong-postgres")

HOOKS = """
def metadata(exchange):
    raise ValueError("a fault of the hook's")
"""

Panels = dict[str, list[str]]


def panels() -> Panels:
    """Titles, and what each asks."""
    found: Panels = {}
    for panel in DASHBOARD["panels"]:
        found.setdefault(f"{panel['title']} ({panel['type']})", []).extend(one["expr"] for one in panel["targets"])
    return found


def asked(expression: str) -> str:
    """As Grafana asks it, of all proxies."""
    return expression.replace("$instance", ".*").replace("$__rate_interval", "30s")


# --- with a real Prometheus and a real proxy


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Of two workers, one of which was killed: ten events delivered, two refused, three waiting."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "hooks.py").write_text(HOOKS)
    admin = f"127.0.0.1:{free_port()}"
    with ScriptedCollector() as collector, ScriptedUpstream() as upstream:
        collector.script = refuse_events(lambda event: event["request"]["uri"].endswith("/bad"))
        options = addon_options(
            collector, admin_listen=admin, admin_token=TOKEN, hooks=str(folder / "hooks.py"), skip="~u /skipped"
        )
        with (
            MoesifProxy(upstream.url, options, workers=2) as proxy,
            prometheus(configured(folder, admin)) as server,
        ):
            server.wait_for("moesif_events_captured_total", 0)
            for path in [*[f"/{number}" for number in range(10)], "/bad", "/bad", "/skipped"]:
                assert exchange(proxy.port, target=path)
            server.wait_for("sum(moesif_events_dropped_total)", 2)
            server.wait_for("moesif_events_delivered_total", 10)
            os.kill(proxy.workers()[0], signal.SIGKILL)
            server.wait_for("moesif_worker_restarts_total", 1)
            server.wait_for('moesif_workers{state="ready"}', 2)
            collector.refuse()
            for path in ("/11", "/12", "/13"):
                assert exchange(proxy.port, target=path)
            server.wait_for('sum(moesif_events_waiting{where="disk"})', 3)
            server.wait_for("min(moesif_receiver_up)", 0)
            yield server


def configured(folder: Path, target: str) -> Path:
    """The configuration of the stack, for this machine and quicker."""
    text = (FOLDER / "prometheus.yml").read_text()
    (folder / "token").write_text(TOKEN)
    for ours, here in (
        ("/etc/prometheus/rules.yml", str(FOLDER / "rules.yml")),
        ("/tmp/admin-token", str(folder / "token")),
        ("addon:8095", target),
        ("15s", "400ms"),
    ):
        assert ours in text
        text = text.replace(ours, here)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


def labelled(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def above_zero(samples: Samples) -> Samples:
    """Counters are there from the first scrape on."""
    return {labels: value for labels, value in samples.items() if value}


def test_the_dashboard_shows_what_the_traffic_gave(scraped: Prometheus) -> None:
    shown = {title: [scraped.query(asked(one)) for one in expressions] for title, expressions in panels().items()}
    exact: dict[str, list[Samples]] = {
        "Waiting (stat)": [{(): 3}],
        "Lost (stat)": [{(): 2}],
        "Receivers (stat)": [{(): 0}],
        "Disk (stat)": [{(): 1}],
        "Workers (stat)": [{(): 2}],
        "Waiting (timeseries)": [{labelled(where="disk"): 3, labelled(where="memory"): 0}],
        "Dropped by cause (timeseries)": [{labelled(cause="refused"): 2}],
        "Worker restarts (timeseries)": [{(): 1}],
    }
    shown["Dropped by cause (timeseries)"] = [above_zero(one) for one in shown["Dropped by cause (timeseries)"]]
    assert {title: shown[title] for title in exact} == exact
    (oldest,), (each,) = shown["Oldest waiting (stat)"], shown["Oldest waiting (timeseries)"]
    assert oldest[()] > 0
    assert min(each.values()) > 0
    assert all(rate[()] > 0 for rate in shown["Events (timeseries)"])
    assert list(shown["Receivers (timeseries)"][0].values()) == [0]
    on_disk, at_most = shown["Spool (timeseries)"]
    assert 0 < on_disk[()] < at_most[()]
    assert sum(shown["Faults of the addon's own (timeseries)"][0].values()) > 0
    (runs,) = shown["What runs (table)"]
    assert [dict(labels).keys() for labels in runs] == [{"version"}]
    assert all(uptime > 0 for uptime in runs.values())
    (by_status,) = shown["Requests by status (timeseries)"]
    assert by_status.keys() >= {labelled(status=f"{hundred}xx") for hundred in range(1, 6)}
    durations = [quantile[()] for quantile in shown["Duration of requests (timeseries)"]]
    assert 0 < durations[0] <= durations[1] <= durations[2]
    added = [quantile[()] for quantile in shown["Added latency (timeseries)"]]
    assert 0 < added[0] <= added[1] <= added[2]
    seen = {
        *exact,
        "Added latency (timeseries)",
        "Requests by status (timeseries)",
        "Duration of requests (timeseries)",
        "Oldest waiting (stat)",
        "Oldest waiting (timeseries)",
        "Events (timeseries)",
    }
    seen |= {"Receivers (timeseries)", "Spool (timeseries)", "Faults of the addon's own (timeseries)"}
    assert shown.keys() == seen | {"What runs (table)"}


def test_its_variable_names_the_proxies(scraped: Prometheus) -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
    answer = requests.get(f"{scraped.url}/api/v1/label/{label}/values", params={"match[]": metric}, timeout=20)
    assert len(answer.json()["data"]) == 1


def test_each_alert_fires_for_what_the_traffic_gave_and_for_nothing_else(scraped: Prometheus) -> None:
    rules = scraped.rules()
    assert {rule["health"] for rule in rules.values()} == {"ok"}
    fired = {name: scraped.query(rule["query"]) for name, rule in rules.items()}
    assert {name for name, samples in fired.items() if samples} == {
        "MoesifEventsDropped",
        "MoesifFaults",
        "MoesifWorkerRestarts",
    }
    assert fired["MoesifEventsDropped"].keys() == {labelled(cause="refused")}
    assert fired["MoesifWorkerRestarts"].keys() == {()}


@pytest.mark.parametrize("engine", ["mitmproxy", "fast"])
def test_a_proxy_that_is_held_up_shows_and_tells_of_added_latency(engine: str, tmp_path: Path) -> None:
    (tmp_path / "holds_up.py").write_text("import time\n\n\ndef request(flow):\n    time.sleep(0.5)\n")
    admin = f"127.0.0.1:{free_port()}"
    with ScriptedCollector() as collector, ScriptedUpstream() as upstream:
        options = addon_options(collector, admin_listen=admin, admin_token=TOKEN, engine=engine)
        with (
            MoesifProxy(upstream.url, options, "-s", str(tmp_path / "holds_up.py")) as proxy,
            prometheus(configured(tmp_path, admin)) as server,
        ):
            server.wait_for("moesif_requests_total{status='2xx'}", 0)
            for _ in range(6):
                assert exchange(proxy.port)
            server.wait_for("moesif_requests_total{status='2xx'}", 6)
            rule = server.rules()["MoesifAddedLatency"]
            (late,) = server.query(rule["query"]).values()
            (shown,) = server.query(asked(panels()["Added latency (timeseries)"][1])).values()
    assert late > 0.1
    assert shown > 0.1


def test_the_rules_are_valid_and_fire_as_their_tests_say() -> None:
    """Over hours, in no time."""
    for arguments in (["check", "rules", str(FOLDER / "rules.yml")], ["test", "rules", "observability_rules.yml"]):
        told = subprocess.run(
            [program("promtool"), *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_has_a_test() -> None:
    rules = parsed((FOLDER / "rules.yml").read_text())
    tests = parsed((Path(__file__).parent / "observability_rules.yml").read_text())
    tested = {
        case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    assert {rule["alert"] for group in rules["groups"] for rule in group["rules"]} == tested


# --- the stack


@pytest.fixture(scope="module", params=STACKS)
def stack(request: pytest.FixtureRequest) -> dict[str, Any]:
    told = compose_config(request.param, GIVEN, "observability")
    assert told.returncode == 0, told.stderr
    config: dict[str, Any] = parsed(told.stdout)
    return config


def test_prometheus_reaches_the_addon_with_its_token(stack: dict[str, Any]) -> None:
    (scrape,) = parsed((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    ((target,),) = [static["targets"] for static in scrape["static_configs"]]
    host, _, port = target.partition(":")
    assert resolve(stack, "prometheus", host) == {("addon", "inside")}
    given = environment(stack["services"]["addon"])
    address = Address.parse(given["MOESIF_ADMIN_LISTEN"])
    assert (address.is_loopback, address.port) == (False, int(port))
    gate = Gate(address, given["MOESIF_ADMIN_TOKEN"])
    token = environment(stack["services"]["prometheus"])["MOESIF_ADMIN_TOKEN"]
    assert gate.refusal("GET", "/metrics", target, {"Authorization": f"Bearer {token}"}) is None
    assert scrape["authorization"]["credentials_file"] in stack["services"]["prometheus"]["command"][0]


def test_the_addon_still_listens_where_it_did(stack: dict[str, Any]) -> None:
    command = stack["services"]["addon"]["command"]
    assert parse(command).listen.port != Address.parse("0.0.0.0:8095").port


def test_grafana_has_its_source_and_its_dashboard(stack: dict[str, Any]) -> None:
    services = stack["services"]
    (source,) = parsed((FOLDER / "grafana.yml").read_text())["datasources"]
    assert resolve(stack, "grafana", "prometheus") == {("prometheus", "inside")}
    assert source["url"] == "http://prometheus:9090"
    asks = {json.dumps(one["datasource"]) for panel in DASHBOARD["panels"] for one in (panel, *panel["targets"])}
    assert asks == {json.dumps({"type": "prometheus", "uid": source["uid"]})}
    (provider,) = parsed((FOLDER / "dashboards.yml").read_text())["providers"]
    mounted = {target: Path(file) for file, target in map(mount, services["grafana"]["volumes"])}
    home = environment(services["grafana"])["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(f"{provider['options']['path']}/")
    assert mounted[home] == FOLDER / "dashboard.json"


def mount(volume: str) -> tuple[str, str]:
    file, target, *_ = volume.split(":")
    return file, target


def test_what_is_mounted_exists(stack: dict[str, Any]) -> None:
    for name in ("prometheus", "grafana"):
        for file, _ in map(mount, stack["services"][name]["volumes"]):
            assert file in stack["volumes"] or Path(file).is_file(), file


def test_only_this_machine_reaches_grafana(stack: dict[str, Any]) -> None:
    added = {port for port in published(stack) if port.service in ("prometheus", "grafana")}
    assert added == {Published("grafana", "127.0.0.1", 3000, 3000)}


def test_every_container_is_hardened(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_command_in_the_comment_starts_this_stack() -> None:
    assert (
        "docker compose -p moesif-front -f compose/front.yml -f compose/observability.yml up --build --wait"
        in leading_comment(COMPOSE / "observability.yml")
    )
    assert "MOESIF_ADMIN_TOKEN" in compose_config("front", REQUIRED, "observability").stderr


def test_the_page_lists_every_alert() -> None:
    page = (COMPOSE / "METRICS.md").read_text()
    listed = re.findall(r"^\| `(Moesif\w+)` \|", page, re.MULTILINE)
    rules = parsed((FOLDER / "rules.yml").read_text())
    assert listed == [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
