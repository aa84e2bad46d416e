"""The delivery process beside the real proxy: killed, orphaned, signalled, and given what it cannot survive."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from mitmproxy_moesif.delivery.spool.file import look_into
from tests.support import ADDON_SCRIPT, APPLICATION_ID
from tests.support.addon import addon_options, exit_counts
from tests.support.collector import Answer, ScriptedCollector
from tests.support.proxy import Mitmdump, helpers_of, is_helper
from tests.support.traffic import Load, send_many
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., Mitmdump]


def helper_of(proxy: Mitmdump, *, other_than: int = 0) -> int:
    """The process id of a proxy's helper, once there is one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for pid in helpers_of(proxy.pid):
            if pid != other_than:
                return pid
        time.sleep(0.02)
    raise AssertionError(f"no helper:\n{proxy.output}")


def wait_for_status(proxy: Mitmdump, wanted: Callable[[dict[str, Any]], bool]) -> None:
    found = re.search(r"Admin API at (\S+)", proxy.wait_for_output("Admin API at"))
    assert found is not None
    deadline = time.monotonic() + 20
    while not wanted(status := requests.get(f"{found[1]}/status", timeout=10).json()):
        assert time.monotonic() < deadline, status
        time.sleep(0.02)


def test_a_killed_helper_is_replaced_and_nothing_is_lost(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector))
    load = Load(proxy.port).start()
    killed = 0
    for _ in range(3):
        load.wait_for(150)
        killed = helper_of(proxy, other_than=killed)
        os.kill(killed, signal.SIGKILL)
    load.wait_for(150)
    seen = load.stop()
    collector.wait_for(lambda c: c.unique_ids() >= set(seen), timeout=30)
    assert proxy.stop() == 0
    assert "the delivery process ended (signal 9); another one is started" in proxy.output
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["delivered"], counts["dropped"]) == (len(seen), len(seen), 0)


def test_a_helper_killed_while_the_collector_is_down_leaves_its_events_to_the_next(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.refuse()
    proxy = mitmdump(upstream.url, addon_options(collector, admin_listen="127.0.0.1:0"))
    sent = send_many(proxy.port, 60)
    wait_for_status(proxy, lambda status: status["waiting"] == {"memory": 0, "disk": 60})
    os.kill(helper_of(proxy), signal.SIGKILL)
    proxy.wait_for_output("found 60 events that an earlier process left")
    collector.listen()
    collector.wait_for(lambda c: c.unique_ids() == set(sent), timeout=30)
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["delivered"], counts["dropped"]) == (60, 60, 0)


def test_what_a_helper_held_in_memory_alone_is_counted_when_it_dies(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.refuse()
    proxy = mitmdump(upstream.url, addon_options(collector, spool_dir="off"))
    send_many(proxy.port, 20)
    proxy.wait_for_output("the receiver is unavailable")
    killed = helper_of(proxy)
    os.kill(killed, signal.SIGKILL)
    helper_of(proxy, other_than=killed)
    collector.listen()
    sent = send_many(proxy.port, 5)
    collector.wait_for(lambda c: c.unique_ids() >= set(sent), timeout=30)
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    # What it had reported to hold is lost with it; what it had not, its successor got.
    assert counts["captured"] == 25
    assert counts["delivered"] == len(collector.unique_ids())
    assert counts["causes"].get("helper_died", 0) == 25 - counts["delivered"]


POISON = """
import os

def skip(exchange):
    if exchange.target == "/poison":
        os._exit(7)
    return False
"""


def test_an_exchange_that_no_helper_survives_is_dropped_alone(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text(POISON)
    proxy = mitmdump(upstream.url, addon_options(collector, hooks=str(hooks)))
    sent = send_many(proxy.port, 10)
    collector.wait_for(10)
    sent += send_many(proxy.port, 5)
    send_many(proxy.port, 1, target="/poison")
    sent += send_many(proxy.port, 5)
    proxy.wait_for_output("an event that no delivery process survived is dropped", timeout=60)
    sent += send_many(proxy.port, 10)
    collector.wait_for(30, timeout=30)
    assert collector.unique_ids() == set(sent)
    assert proxy.stop() == 0
    assert "exit code 7" in proxy.output
    assert exit_counts(proxy.output)["causes"] == {"helper_died": 1}


def test_what_hooks_print_is_in_the_log(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text("def metadata(exchange):\n    print('seen', exchange.status)\n    return {}\n")
    proxy = mitmdump(upstream.url, addon_options(collector, hooks=str(hooks)))
    send_many(proxy.port, 1)
    proxy.wait_for_output("moesif: hooks: seen 200")


def test_the_helper_of_a_killed_proxy_ends_and_the_next_proxy_delivers(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    collector.refuse()
    proxy = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
    sent = send_many(proxy.port, 30)
    proxy.wait_for_output("the receiver is unavailable")
    helper = helper_of(proxy)
    outputs = {str(Path(f"/proc/{helper}/fd/{number}").readlink()) for number in (0, 1, 2)}
    assert outputs == {os.devnull}, "who reads the proxy's output would wait for its helper to end"
    proxy.kill()
    assert not is_helper(helper)
    collector.listen()
    again = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
    collector.wait_for(lambda c: c.unique_ids() == set(sent), timeout=30)
    assert again.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_as_one_to_the_proxy_does(
    number: signal.Signals, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """A terminal's Ctrl-C and a supervisor's SIGTERM reach the helper too: it has to outlast the proxy."""
    proxy = mitmdump(upstream.url, addon_options(collector, flush_interval=60_000))
    sent = send_many(proxy.port, 20)
    helper = helper_of(proxy)
    os.kill(helper, number)
    assert proxy.stop(number) == 0
    assert collector.unique_ids() == set(sent)
    assert exit_counts(proxy.output)["delivered"] == 20
    assert not is_helper(helper)


def test_the_helper_runs_the_package_that_the_proxy_runs(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """From a clone, where nothing is installed but the dependencies."""
    addon = tmp_path / "addon"
    shutil.copytree(ADDON_SCRIPT.parent, addon, ignore=shutil.ignore_patterns("__pycache__"))
    init = addon / "mitmproxy_moesif" / "__init__.py"
    init.write_text(init.read_text() + '\n__version__ = "clone"\n')
    proxy = mitmdump(upstream.url, addon_options(collector), scripts=[addon / "moesif.py"])
    send_many(proxy.port, 1)
    collector.wait_for(1)
    assert {post.headers["user-agent"] for post in collector.posts()} == {"mitmproxy-moesif/clone"}
    assert proxy.stop() == 0


def test_the_application_id_is_not_in_the_helpers_command_line(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector), forked=False)
    assert APPLICATION_ID.encode() not in Path(f"/proc/{helper_of(proxy)}/cmdline").read_bytes()


@pytest.mark.parametrize("background", ["process", "threads"])
def test_the_same_event_comes_of_both(
    background: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, background=background, user_id_header="X-User"))
    (sent,) = send_many(proxy.port, 1, body=b'{"a":1}')
    (event,) = collector.wait_for(1)
    assert event["transaction_id"] == sent
    assert event["request"]["body"] == {"a": 1}
    assert (event["response"]["status"], event["weight"], event["direction"]) == (200, 1, "Incoming")
    if background == "process":
        helper_of(proxy)
    else:
        assert not Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text()


@pytest.mark.parametrize("background", ["process", "threads"])
def test_a_full_queue_drops_exactly_what_has_no_room(
    background: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.refuse()
    options = addon_options(collector, background=background, spool_dir="off", event_queue_size=15)
    proxy = mitmdump(upstream.url, options)
    send_many(proxy.port, 40)
    proxy.wait_for_output("the queue is over 80 % full")
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert counts["captured"] == 40
    assert counts["causes"] == {"queue_full": 25, "shutdown": 15}


IN_THE_DELIVERY_PROCESS = """
import sys

# The delivery process gets the proxy's paths, and Python starts with what it finds there under this name.
if {folder!r} not in sys.path:
    sys.path.insert(0, {folder!r})
if "mitmproxy_moesif.delivery.process" in sys.orig_argv:
    {then}
else:
    from mitmproxy_moesif.delivery import keeper

    keeper.WATCH_INTERVAL = 1.0
"""


def in_each_delivery_process(folder: Path, then: str) -> list[Path]:
    """Scripts for a proxy each of whose delivery processes begins with this statement, and must answer soon."""
    script = folder / "sitecustomize.py"
    script.write_text(IN_THE_DELIVERY_PROCESS.format(folder=str(folder), then=then))
    return [script, ADDON_SCRIPT]


def health_of(proxy: Mitmdump) -> requests.Response:
    found = re.search(r"Admin API at (\S+)", proxy.wait_for_output("Admin API at"))
    assert found is not None
    return requests.get(f"{found[1]}/health", timeout=10)


@pytest.mark.parametrize(
    ("fate", "told"),
    [
        ("import os; os._exit(3)", "the delivery process ended (exit code 3)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "the delivery process does not answer"),
    ],
    ids=["ends at once", "hangs from birth"],
)
def test_where_no_delivery_process_lives_a_thread_takes_its_place(
    fate: str, told: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    scripts = in_each_delivery_process(tmp_path, fate)
    proxy = mitmdump(upstream.url, addon_options(collector, admin_listen="127.0.0.1:0"), scripts=scripts)
    sent = send_many(proxy.port, 20)
    collector.wait_for(lambda c: c.unique_ids() == set(sent), timeout=60)
    sent += send_many(proxy.port, 5)
    collector.wait_for(lambda c: c.unique_ids() == set(sent))
    health = health_of(proxy)
    assert (health.status_code, "no delivery process stays alive here" in health.text) == (503, True)
    assert proxy.stop() == 0
    assert told in proxy.output
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["delivered"], counts["dropped"]) == (25, 25, 0)


def test_a_delivery_process_that_stops_answering_is_replaced(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    scripts = in_each_delivery_process(tmp_path, "pass")
    proxy = mitmdump(upstream.url, addon_options(collector, admin_listen="127.0.0.1:0"), scripts=scripts)
    sent = send_many(proxy.port, 5)
    collector.wait_for(lambda c: c.unique_ids() == set(sent))
    os.kill(helper_of(proxy), signal.SIGSTOP)
    sent += send_many(proxy.port, 5)
    collector.wait_for(lambda c: c.unique_ids() == set(sent), timeout=60)
    assert health_of(proxy).status_code == 200
    assert proxy.stop() == 0
    assert "the delivery process does not answer; it is killed and replaced" in proxy.output
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["delivered"]) == (10, 10)


KILLED_AT_THE_END = (
    "import os, signal; "
    "from mitmproxy_moesif.delivery import server; "
    "from mitmproxy_moesif.delivery.spool.store import Store; "
    "server.REPORT_INTERVAL = 60; "
    "Store.close = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
)


def test_a_delivery_process_killed_while_it_ends_is_counted_by_what_is_on_disk(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Its last report was the first; it has stored everything since, and is killed before it says so."""
    collector.refuse()
    scripts = in_each_delivery_process(tmp_path, KILLED_AT_THE_END)
    proxy = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=300), scripts=scripts)
    helper_of(proxy)
    send_many(proxy.port, 20)
    assert proxy.stop() == 0
    assert "moesif: captured 20, delivered 0, waiting 20, dropped 0" in proxy.output
    assert sum(look_into(path)[1] or 0 for path in (proxy.folder / "moesif-spool").glob("*.sqlite")) == 20


def test_an_answer_about_exchanges_that_comes_too_late_costs_nothing(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, admin_listen="127.0.0.1:0"))
    sent = send_many(proxy.port, 5)
    collector.wait_for(lambda c: c.unique_ids() == set(sent))
    found = re.search(r"Admin API at (\S+)", proxy.wait_for_output("Admin API at"))
    assert found is not None
    helper = helper_of(proxy)
    os.kill(helper, signal.SIGSTOP)
    assert requests.get(f"{found[1]}/exchanges", timeout=20).status_code == 503
    os.kill(helper, signal.SIGCONT)
    assert requests.get(f"{found[1]}/exchanges", timeout=20).json()["kept"] == 5
    sent += send_many(proxy.port, 5)
    collector.wait_for(lambda c: c.unique_ids() == set(sent), timeout=20)
    assert helpers_of(proxy.pid) == [helper]
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["delivered"]) == (10, 10)


def test_the_age_of_an_event_counts_from_its_capture_wherever_it_is(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """In the proxy, which cannot hand it over to a delivery process that is stopped."""
    proxy = mitmdump(upstream.url, addon_options(collector, admin_listen="127.0.0.1:0"))
    helper = helper_of(proxy)
    os.kill(helper, signal.SIGSTOP)
    try:
        send_many(proxy.port, 1)
        wait_for_status(proxy, lambda status: (status["oldest_waiting"] or 0) > 0.5)
    finally:
        os.kill(helper, signal.SIGCONT)


def test_answers_of_the_collector_reach_the_rules(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """Their headers tell the proxy of other rules; the helper is who hears them."""
    proxy = mitmdump(upstream.url, addon_options(collector))
    collector.wait_for(lambda c: any(one.path == "/v1/config" for one in c.requests()))
    collector.enqueue(Answer(201, {"X-Moesif-Config-Etag": "another"}))
    asked = sum(one.path == "/v1/config" for one in collector.requests())
    send_many(proxy.port, 1)
    collector.wait_for(lambda c: sum(one.path == "/v1/config" for one in c.requests()) > asked)
