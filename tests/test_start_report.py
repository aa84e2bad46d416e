"""What a start says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.runtime import Prepared
from mitmproxy_moesif.start_report import block
from tests.support.addon import addon_options
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.upstream import ScriptedUpstream

START = {"application_id": "s3cret"}


def said(given: dict[str, Any], upstream: str = "http://kong:8000", folder: Path | None = None) -> dict[str, str]:
    lines = block(Prepared.of({**START, **given}), [upstream], folder).splitlines()
    return {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}


def test_the_defaults() -> None:
    assert said({}) == {
        "upstream": "http://kong:8000",
        "events to": "https://api.moesif.net",
        "spool": "off: events are in memory only",
        "masks": "none; headers with credentials are left out (credential_headers=send sends them)",
    }


@pytest.mark.parametrize(
    ("given", "name", "text"),
    [
        ({"enabled": False}, "capture", "off (enabled=false): traffic passes, nothing is captured"),
        ({"sample_rate": 0}, "sampling", "0 %: every event is dropped (sample_rate=0)"),
        ({"sample_rate": 12}, "sampling", "12 % (sample_rate)"),
        ({"governance": "off"}, "rules", "off (governance=off)"),
        ({"skip": "~m OPTIONS"}, "skip", "~m OPTIONS"),
        ({"sink_file": "/tmp/events"}, "events to", "https://api.moesif.net and /tmp/events"),
        ({"application_id": "", "sink_file": "/tmp/events"}, "events to", "/tmp/events"),
        ({"akto_service_url": "http://akto:9091", "akto_api_key": "k"}, "records to", "http://akto:9091 (Akto)"),
        ({"application_id": "", "akto_service_url": "http://akto:9091"}, "events to", "nobody"),
    ],
)
def test_what_is_set_is_told(given: dict[str, Any], name: str, text: str) -> None:
    assert said(given)[name] == text


def test_masks_are_those_of_kongs_entries(tmp_path: Path) -> None:
    plugins: list[dict[str, Any]] = [
        {
            "name": "moesif",
            "instance_name": name,
            "service": name,
            "config": {"application_id": name, "request_body_masks": masks},
        }
        for name, masks in (("a", ["pin"]), ("b", []))
    ]
    services = [{"name": name, "url": "http://127.0.0.1:9"} for name in ("a", "b")]
    path = tmp_path / "kong.json"
    for kept, told in ((plugins[:1], "request_body_masks 1; headers"), (plugins, "a: request_body_masks 1; b: none; ")):
        path.write_text(json.dumps({"_format_version": "3.0", "services": services, "plugins": kept}))
        assert said({"kong_config": str(path)})["masks"].startswith(told)
    assert said({"kong_config": str(path)})["masks"].count("headers with credentials") == 1
    plugins[1]["config"]["credential_headers"] = "send"
    path.write_text(json.dumps({"_format_version": "3.0", "services": services, "plugins": plugins}))
    masks = said({"kong_config": str(path)})["masks"]
    assert masks.startswith("a: request_body_masks 1; headers with credentials are left out ")
    assert masks.endswith("; b: none; headers with credentials are sent")


def test_an_entry_without_a_name_is_called_by_what_it_is_for(tmp_path: Path) -> None:
    file = tmp_path / "kong.yml"
    file.write_text("""
_format_version: "3.0"
services: [{name: orders, url: http://127.0.0.1:9}]
consumers: [{username: ada}]
plugins:
- {name: moesif, service: orders, config: {application_id: A, request_body_masks: [pin]}}
- {name: moesif, service: orders, consumer: ada, config: {application_id: A}}
- {name: moesif, config: {application_id: A, request_query_masks: [key]}}
""")
    told = said({"kong_config": str(file)})["masks"]
    assert 'service "orders": request_body_masks 1; ' in told
    assert 'service "orders" + consumer "ada": none; ' in told
    assert "global: request_query_masks 1; " in told


def test_each_line_has_a_blank_between_what_it_is_and_what_is_true_of_it() -> None:
    everything = {"akto_service_url": "http://akto:9091", "sample_rate": 12, "skip": "~m OPTIONS"}
    lines = block(Prepared.of(START | everything), ["http://kong:8000"], None).splitlines()
    assert all(re.match(r"  [a-z ]+: +\S", line) for line in lines)


def test_no_password_of_a_url_is_shown() -> None:
    assert said({}, "http://ada:s3cret@kong:8000")["upstream"] == "http://kong:8000"


def test_an_upstream_that_is_not_reached_is_told_by_the_first_of_two_workers(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector
) -> None:
    with ScriptedUpstream(refusing=True) as upstream:
        proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
        proxy.wait_for_output(
            f"cannot reach the upstream {upstream.url}: Connection refused; requests get 502 until it is reachable"
        )
    assert proxy.stop() == 0
    assert proxy.output.count("moesif: started") == 1


def test_what_overrides_kongs_entries_is_named_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kong.yml"
    config = "{application_id: of-file, batch_size: 5, api_version: same}"
    file.write_text(f'_format_version: "3.0"\nplugins:\n- name: moesif\n  config: {config}\n')
    monkeypatch.setenv("MOESIF_APPLICATION_ID", "5ecre7")
    given = {"kong_config": str(file), "application_id": "5ecre7", "batch_size": 7, "api_version": "same"}
    told = block(Prepared.of(given), [], None)
    assert "overrides:  MOESIF_APPLICATION_ID, --set moesif_batch_size: in effect" in told
    assert "5ecre7" not in told
    assert "of-file" not in told
    assert "overrides:" not in block(Prepared.of({"kong_config": str(file)}), [], None)
