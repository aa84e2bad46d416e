"""`moesif-proxy --workers`: one port, workers that die and come back, one count of all events."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client, exchange
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy, failed, wait_until_gone
from tests.support.traffic import ON_DISK_WITHIN, Load
from tests.support.upstream import ScriptedUpstream
from tests.test_delivery import spooled_ids

Start = Callable[..., MoesifProxy]


def wait_for_workers(proxy: MoesifProxy, count: int, without: set[int]) -> list[int]:
    """Until so many workers run that are not among those; their process ids."""
    deadline = time.monotonic() + 20
    while len(workers := [pid for pid in proxy.workers() if pid not in without]) < count:
        assert time.monotonic() < deadline, proxy.output
        time.sleep(0.02)
    return workers


def wait_until_served(proxy: MoesifProxy) -> None:
    """Until a worker listens, where all of them may just have been killed."""
    deadline = time.monotonic() + 20
    while True:
        with suppress(OSError):
            if exchange(proxy.port) is not None:
                return
        assert time.monotonic() < deadline, proxy.output
        time.sleep(0.02)


def serving(proxy: MoesifProxy, count: int = 40) -> list[Client]:
    """Connections, spread by the kernel over all workers."""
    clients = [Client(proxy.port) for _ in range(count)]
    for client in clients:
        answer = client.exchange("GET", "/spread")
        assert answer is not None
        assert answer.status == 200
    return clients


def test_all_workers_serve_one_port_and_their_events_are_added_up(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    workers = proxy.workers()
    assert len(workers) == 2
    for client in serving(proxy):
        client.close()
    collector.wait_for(40)
    assert proxy.stop() == 0
    (line,) = (line for line in proxy.output.splitlines() if line.startswith("moesif: captured"))
    assert line == "moesif: captured 40, delivered 40, waiting 0, dropped 0"
    wait_until_gone(workers)


def test_a_worker_that_is_killed_comes_back_and_what_it_had_on_disk_is_delivered(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.refuse()
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    before = proxy.workers()
    clients = serving(proxy)
    wait_until_on_disk(proxy.folder, 40)
    os.kill(before[0], signal.SIGKILL)
    proxy.wait_for_output("was ended by SIGKILL; restarting in 0.2 s")
    for client in clients:
        client.close()
    wait_for_workers(proxy, 2, without={before[0]})
    collector.listen()
    events = collector.wait_for(40, timeout=25)
    assert len({event["transaction_id"] for event in events}) == 40
    answer = exchange(proxy.port)
    assert answer is not None
    collector.wait_for(41)
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert counts["delivered"] == 41
    assert counts["captured"] == counts["delivered"] + counts["waiting"] + counts["dropped"]


def wait_until_on_disk(folder: Path, count: int) -> None:
    """Until so many events have been stored, as far as one can see that from outside: the spool has stopped growing."""
    deadline = time.monotonic() + 10
    sizes: list[int] = []
    while len(sizes) < 10 or len(set(sizes[-10:])) > 1 or sizes[-1] < count * 100:
        assert time.monotonic() < deadline, f"{count} events are not on disk: {sizes[-1:]}"
        sizes.append(sum(file.stat().st_size for file in (folder / "moesif-spool").rglob("*") if file.is_file()))
        time.sleep(0.05)


def test_workers_killed_under_load_are_counted_right(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """Their last word is up to a second old; what they did after it is in their spool files."""
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    killed: set[int] = set()
    safe: set[str] = set()
    for _ in range(3):
        wait_until_served(proxy)
        load = Load(proxy.port, clients=6).start()
        load.wait_for(300)
        load.wait_for_age(ON_DISK_WITHIN)
        victim, *_ = wait_for_workers(proxy, 2, without=killed)
        killed.add(victim)
        when = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        safe |= {one for one, at in load.stop().items() if abs(at - when) > ON_DISK_WITHIN}
    wait_for_workers(proxy, 2, without=killed)
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    kept = collector.unique_ids() | set(spooled_ids(proxy.folder))
    assert counts["captured"] == counts["delivered"] + counts["waiting"] + counts["dropped"]
    assert counts["delivered"] + counts["waiting"] == len(kept), proxy.output
    assert safe
    assert safe <= kept


def test_workers_killed_while_they_end_are_counted_by_what_is_on_disk(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """Their last reading, up to a second old, is no last word here either."""
    collector.refuse()
    proxy = moesif_proxy(upstream.url, addon_options(collector, shutdown_timeout=300_000), workers=2)
    workers = wait_for_workers(proxy, 2, without=set())
    load = Load(proxy.port, clients=6).start()
    load.wait_for(300)
    load.wait_for_age(ON_DISK_WITHIN)
    proxy.send_signal(signal.SIGTERM)
    safe = load.stop()
    wait_until_on_disk(proxy.folder, len(safe))
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    proxy.wait_exit()
    counts = exit_counts(proxy.output)
    assert counts["captured"] == counts["waiting"] == len(spooled_ids(proxy.folder)) >= len(safe), proxy.output


def test_a_worker_that_dies_again_and_again_is_started_ever_later(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    first, stays = proxy.workers()
    os.kill(first, signal.SIGKILL)
    (second,) = wait_for_workers(proxy, 1, without={first, stays})
    os.kill(second, signal.SIGKILL)
    output = proxy.wait_for_output("restarting in 0.4 s")
    assert output.index("restarting in 0.2 s") < output.index("restarting in 0.4 s")
    answer = exchange(proxy.port)
    assert answer is not None
    assert answer.status == 200


def killed_at(start: int, folder: Path) -> Path:
    """An addon of one's own by which the process that is the nth to load it kills itself, as for lack of memory."""
    script = folder / "killed.py"
    script.write_text(f"""
import os, pathlib, signal
begun = pathlib.Path({str(folder / "begun")!r})
with begun.open("a") as file:
    file.write(".")
if len(begun.read_text()) == {start}:
    os.kill(os.getpid(), signal.SIGKILL)
""")
    return script


def test_a_worker_that_dies_while_it_starts_is_started_again_beside_one_that_serves(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), "-s", str(killed_at(2, tmp_path)), workers=2)
    proxy.wait_for_output("worker 2 was ended by SIGKILL; restarting in 0.2 s")
    proxy.wait_for_output("with 2 workers, passing to")
    assert len(proxy.workers()) == 2
    exchange(proxy.port)
    collector.wait_for(1)
    assert proxy.stop() == 0
    assert "captured 1, delivered 1" in proxy.output


def test_a_first_worker_that_is_killed_before_it_serves_ends_the_start_with_one_line(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    given = [f"{name}={value}" for name, value in addon_options(collector).items()]
    sets = [part for one in given for part in ("--set", one)]
    arguments = ["--upstream", upstream.url, "--listen", "127.0.0.1:0", "--workers", "2", *sets]
    ended = failed(*arguments, "-s", str(killed_at(1, tmp_path)), folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.endswith(" ERROR moesif-proxy: worker 1 was ended by SIGKILL before it accepted connections\n")
    assert ended.stderr.count("\n") == 1


def test_workers_end_with_their_supervisor(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    workers = proxy.workers()
    with Client(proxy.port) as client:
        client.exchange("GET", "/first")
        collector.wait_for(1)
        client.exchange("GET", "/last")
    proxy.kill()
    wait_until_gone(workers)
    assert len(collector.wait_for(2)) == 2


def test_sighup_reaches_all_workers_and_is_told_once(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("moesif_api_version: first\n")
    proxy = moesif_proxy(upstream.url, addon_options(collector), "--config", str(config), workers=2)
    clients = serving(proxy)
    config.write_text("moesif_api_version: second\n")
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_output("the configuration was read again: moesif_api_version changed")
    deadline = time.monotonic() + 10
    asked = 0
    while True:  # the other worker may be a moment later
        for client in clients:
            client.exchange("GET", f"/after{asked}")
        events = collector.wait_for(40 * (asked + 2))
        versions = {e["request"]["api_version"] for e in events if e["request"]["uri"].endswith(f"/after{asked}")}
        if versions == {"second"}:
            break
        assert time.monotonic() < deadline
        asked += 1
    for client in clients:
        client.close()
    config.write_text("moesif_batch_size: 0\n")
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_output("the configuration was refused, the old one stays: ")
    assert proxy.stop() == 0
    assert proxy.output.count("the configuration was read again") == 1
    assert proxy.output.count("the configuration was refused") == 1


def owner(proxy: MoesifProxy, client: Client) -> int:
    """The process id of the worker that accepts this connection."""
    ends = f":{proxy.port:04X}", f":{client.sock.getsockname()[1]:04X}"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        inodes = {f"socket:[{line[9]}]" for line in lines if (line[1][-5:], line[2][-5:]) == ends}
        for pid in proxy.workers():
            with suppress(FileNotFoundError):
                if inodes & {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}:
                    return pid
    raise AssertionError(proxy.output)


@pytest.mark.parametrize("turn", range(int(os.environ.get("MOESIF_TEST_HANDOVERS", "3"))))
def test_an_event_whose_file_changes_hands_while_all_end_is_counted_once(
    turn: int, moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """One worker ends at the first signal; the other, which still serves, takes its spool over."""
    collector.refuse()
    proxy = moesif_proxy(upstream.url, addon_options(collector, shutdown_timeout=300), workers=2)
    clients = [Client(proxy.port) for _ in range(20)]
    done, *_ = clients
    assert done.exchange("GET", "/done") is not None
    slow = next(client for client in clients if owner(proxy, client) != owner(proxy, done))
    slow.send(b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n1")
    wait_until_on_disk(proxy.folder, 1)
    for client in clients:
        if client is not slow:
            client.close()
    proxy.send_signal(signal.SIGINT)
    proxy.wait_for_output("found 1 event that an earlier process left")
    proxy.send_signal(signal.SIGINT)
    proxy.wait_exit()
    counts = exit_counts(proxy.output)
    assert counts["captured"] == counts["waiting"] == len(spooled_ids(proxy.folder))
    slow.close()
