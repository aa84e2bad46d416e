"""A live change holds the event loop no longer than it must: what has not changed is not compiled again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import SecretStr

from mitmproxy_moesif.config.fields import Property, parameters_with
from mitmproxy_moesif.config.settings import START_ONLY, Settings
from mitmproxy_moesif.runtime import Prepared
from tests.bench.rules import rules
from tests.support import ADDON_SCRIPT
from tests.support.addon import addon_options
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

MOST = 4.0
"""Times what an idle change takes."""

WATCHDOG = """
import asyncio, json, pathlib, threading, time, traceback
from mitmproxy import ctx

CHANGES = json.loads(pathlib.Path(__file__).with_name("changes.json").read_text())

async def turn_over():
    await asyncio.sleep(0)

def measure(loop, clock, life):
    held = {}
    while life.live is None:
        time.sleep(0.01)
    for turn in range(5):
        for name, values in CHANGES.items():
            began = time.clock_gettime(clock)
            life.live({name: values[turn % 2]})
            asyncio.run_coroutine_threadsafe(turn_over(), loop).result()  # what was left for its next turn
            held.setdefault(name, []).append(time.clock_gettime(clock) - began)
    pathlib.Path(__file__).with_name("held.json").write_text(json.dumps(held))

def run(*given):
    try:
        measure(*given)
    except Exception:
        traceback.print_exc()
    finally:
        print("the measurement has ended", flush=True)

def running():
    clock = time.pthread_getcpuclockid(threading.get_ident())
    life = ctx.master.addons.get("moesif")._life
    threading.Thread(target=run, args=(asyncio.get_running_loop(), clock, life), daemon=True).start()
"""

TEXTS: dict[str, list[Any]] = {
    "api_endpoint": ["http://127.0.0.1:9", "http://127.0.0.1:10"],
    "kafka_brokers": [["127.0.0.1:9"], ["127.0.0.1:10"]],
    "trusted_ips": [["10.0.0.0/8"], ["0.0.0.0/0"]],
    "application_id": ["one", "another"],
    "skip": ["~u /health", "~u /other"],
    "kafka_config": ["client.id=one", "client.id=another"],
    "akto_service_url": ["http://127.0.0.1:9", "http://127.0.0.1:10"],
    "akto_transport": ["http", "http"],
    "akto_account_id": ["1", "2"],
    "akto_kafka_brokers": [["127.0.0.1:9"], ["127.0.0.1:10"]],
}


def two_values(name: str) -> list[Any]:
    field = Settings.model_fields[name]
    if name in TEXTS:
        return TEXTS[name]
    if get_origin(field.annotation) is Literal:
        return list(get_args(field.annotation))[:2]
    match field.default:
        case bool() as flag:
            return [not flag, flag]
        case int() as number:
            return [number - 1, number]
        case tuple():
            return [["a"], ["b"]]
        case SecretStr() | str() | None if name != "sample_rate":
            return ["a", "b"]
    return [1, 2]


LIVE = sorted(Settings.model_fields.keys() - START_ONLY - parameters_with(Settings, Property.FILE) - {"enabled"})
"""A new file is read at once, so that a broken one is refused; `enabled` empties the account of Kong's instances."""


def kong(folder: Path) -> Path:
    """1,000 routes, and one instance."""
    routes = [
        {"name": f"route-{n}", "paths": [f"/api/v{n % 7}/{n}"], "hosts": [f"h{n % 50}.test"]} for n in range(1000)
    ]
    service = {"name": "api", "url": "http://127.0.0.1:9", "routes": routes}
    plugins = [{"name": "moesif", "config": {"application_id": "of-kong"}}]
    path = folder / "kong.json"
    path.write_text(json.dumps({"_format_version": "3.0", "services": [service], "plugins": plugins}))
    return path


def rules_file(folder: Path) -> Path:
    path = folder / "rules.json"
    path.write_text(json.dumps(rules()))
    return path


@pytest.fixture
def held(
    mitmdump: Callable[..., Mitmdump], upstream: ScriptedUpstream, tmp_path: Path
) -> Callable[..., dict[str, float]]:
    """Seconds of the event loop that a change of each of these options takes: CPU time, for other processes' sake.

    Changed from another thread, as the Admin API does.
    """

    def measure(names: list[str], **parameters: Any) -> dict[str, float]:
        folder = tmp_path / f"proxy-{len(parameters)}"
        folder.mkdir()
        script = folder / "watchdog.py"
        script.write_text(WATCHDOG)
        (folder / "changes.json").write_text(json.dumps({name: two_values(name) for name in names}))
        options = addon_options(sink_file=str(folder / "events"), **parameters)
        proxy = mitmdump(upstream.url, options, scripts=[ADDON_SCRIPT, script], folder=folder)
        ended = proxy.wait_for_output("the measurement has ended", timeout=60)
        assert "Traceback" not in ended
        tries = json.loads((folder / "held.json").read_text())
        return {name: median(tries[name]) for name in names}

    return measure


def test_rules_and_routes_make_no_live_change_slower(held: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    idle = held(["debug"])["debug"]
    busy = held(LIVE, rules_file=str(rules_file(tmp_path)), kong_config=str(kong(tmp_path)))
    print({name: (round(time * 1000, 2), round(time / idle, 1)) for name, time in busy.items()})
    assert {name: round(time / idle, 1) for name, time in busy.items() if time > MOST * idle} == {}


def test_what_has_not_changed_is_kept(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text("def skip(exchange):\n    return False\n")
    given = {
        "application_id": "x",
        "rules_file": str(rules_file(tmp_path)),
        "kong_config": str(kong(tmp_path)),
        "hooks": str(hooks),
    }
    before = Prepared.of(given)
    after = Prepared.of({**given, "batch_size": 7}, before)
    assert after.local_rules is before.local_rules
    assert after.instance.hooks is before.instance.hooks is not None
    assert after.resolver is not None
    assert before.resolver is not None
    assert after.resolver.scopes is before.resolver.scopes
    assert [one.settings.batch_size for one in after.instances] == [7]
    same = Prepared.of(dict(given), before)
    assert same.instance is before.instance
    assert same.instances == before.instances


def test_a_file_that_was_written_in_place_is_read_again(tmp_path: Path) -> None:
    hooks, path = tmp_path / "hooks.py", tmp_path / "rules.json"
    hooks.write_text("def skip(exchange):\n    return False\n")
    path.write_text("[]")
    given = {"application_id": "x", "rules_file": str(path), "hooks": str(hooks)}
    before = Prepared.of(given)
    hooks.write_text("def mask(event):\n    return event\n")
    path.write_text(json.dumps(rules()))
    after = Prepared.of(given, before)
    assert after.instance.hooks is not None
    assert after.instance.hooks.functions.keys() == {"mask"}
    assert len(after.local_rules.rules.rules) == 1000


def test_what_masks_a_request_without_an_instance_is_put_together_before_one_comes(tmp_path: Path) -> None:
    known = Prepared.of({"application_id": "x", "request_query_masks": "pin", "kong_config": str(kong(tmp_path))})
    unknown = replace(known, kong=None, resolver=None)
    assert known.unplaced.policy.query_masks == {"pin"}
    assert (known.unplaced.hides, unknown.unplaced.hides) == (False, True)
    assert unknown.unplaced is unknown.unplaced
