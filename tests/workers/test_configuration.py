"""`moesif-proxy --workers`: all workers and the state file hold one configuration, whatever fails or dies."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.workers.test_admin import get, plugin, versions, wait_for
from tests.workers.test_supervisor import serving, wait_for_workers


def patch(url: str, **config: Any) -> requests.Response:
    return requests.patch(plugin(url), json={"config": config}, timeout=30)


def restart(proxy: MoesifProxy, url: str, pid: int) -> None:
    """Kill a worker, and wait until its successor is ready."""
    before = set(proxy.workers())
    os.kill(pid, signal.SIGKILL)
    wait_for_workers(proxy, 1, without=before)
    wait_for(lambda: get(f"{url}/status")["workers"]["ready"] == len(before))


def in_force(proxy: MoesifProxy, collector: ScriptedCollector, path: str) -> set[str]:
    """`api_version` of the events of all workers."""
    clients = serving(proxy)
    try:
        return versions(collector, clients, path)
    finally:
        for client in clients:
            client.close()


def test_a_change_that_cannot_be_kept_is_never_in_force(
    start: Any, collector: ScriptedCollector, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    kept = folder / "kept.json"
    proxy, url = start(admin_state=str(kept))
    assert patch(url, api_version="kept").status_code == 200
    shutil.rmtree(folder)
    refused = patch(url, api_version="refused")
    assert (refused.status_code, "nothing was changed" in refused.json()["message"]) == (500, True)
    assert get(plugin(url))["config"]["api_version"] == "kept"
    assert in_force(proxy, collector, "/refused") == {"kept"}
    folder.mkdir()
    restart(proxy, url, proxy.workers()[0])
    assert in_force(proxy, collector, "/restarted") == {"kept"}
    assert patch(url, batch_size=7).status_code == 200
    assert in_force(proxy, collector, "/again") == {"kept"}
    assert json.loads(kept.read_text())["config"] == {"api_version": "kept", "batch_size": 7}


def test_the_first_change_of_an_option_is_undone_to_what_the_start_gave(
    start: Any, collector: ScriptedCollector, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    proxy, url = start(admin_state=str(tmp_path / "none" / "kept.json"), api_version="given")
    (tmp_path / "none").rmdir()
    assert patch(url, api_version="refused").status_code == 500
    assert in_force(proxy, collector, "/refused") == {"given"}
    for pid in proxy.workers():
        restart(proxy, url, pid)
    assert in_force(proxy, collector, "/restarted") == {"given"}


@pytest.mark.parametrize("kept", [True, False])
def test_a_change_is_in_force_in_every_worker_also_in_those_started_later(
    start: Any, collector: ScriptedCollector, tmp_path: Path, kept: bool
) -> None:
    proxy, url = start(**({"admin_state": str(tmp_path / "kept.json")} if kept else {}))
    assert patch(url, api_version="first").status_code == 200
    assert patch(url, api_version="second").status_code == 200
    assert in_force(proxy, collector, "/before") == {"second"}
    for pid in proxy.workers():
        restart(proxy, url, pid)
    assert in_force(proxy, collector, "/after") == {"second"}


def test_a_change_outlives_reading_the_options_again(start: Any, collector: ScriptedCollector, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("moesif_api_version: first\nmoesif_batch_size: 5\n")
    proxy, url = start("--config", str(config), admin_state=str(tmp_path / "kept.json"))
    assert patch(url, api_version="patched").status_code == 200
    config.write_text("moesif_api_version: second\nmoesif_batch_size: 6\n")
    proxy.send_signal(signal.SIGHUP)
    wait_for(lambda: get(plugin(url))["config"]["batch_size"] == 6)
    assert in_force(proxy, collector, "/after") == {"patched"}


def test_a_storm_of_changes_signals_and_kills_ends_with_one_configuration(
    start: Any, collector: ScriptedCollector, tmp_path: Path
) -> None:
    kept, config = tmp_path / "kept.json", tmp_path / "config.yaml"
    config.write_text("moesif_api_version: file\n")
    proxy, url = start("--config", str(config), workers=3, admin_state=str(kept))
    one = plugin(url)
    numbers = iter(range(200))
    taking = threading.Lock()

    def change() -> None:
        while True:
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            body = {"config": {"api_version": f"v{number}"}}
            with suppress(requests.RequestException):
                requests.patch(one, json=body, timeout=60)

    threads = [threading.Thread(target=change) for _ in range(8)]
    for thread in threads:
        thread.start()
    chance = random.Random(7)
    while any(thread.is_alive() for thread in threads):
        proxy.send_signal(signal.SIGHUP)
        with suppress(ProcessLookupError, IndexError):
            os.kill(chance.choice(proxy.workers()), signal.SIGKILL)
        time.sleep(0.7)
    for thread in threads:
        thread.join()
    wait_for(lambda: get(f"{url}/status")["workers"]["ready"] == 3, seconds=60)
    config.write_text("moesif_api_version: file\nmoesif_batch_size: 6\n")
    proxy.send_signal(signal.SIGHUP)
    wait_for(lambda: get(one)["config"]["batch_size"] == 6)
    (version,) = in_force(proxy, collector, "/after")
    assert version.startswith("v")
    assert get(plugin(url))["config"]["api_version"] == version
    assert json.loads(kept.read_text())["config"] == {"api_version": version}
    assert "Traceback" not in proxy.output
