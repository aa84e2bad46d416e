"""`moesif-proxy --workers`: one port, workers that die and come back, one count of all events."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.workers.control import NOTHING
from mitmproxy_moesif.workers.supervisor import bereaved, total
from tests.support.addon import addon_options, exit_counts
from tests.support.client import Client, exchange
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy, wait_until_gone
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
    proxy.wait_for_output("was ended by SIGKILL; again in 0.2 s")
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


def test_a_worker_that_dies_again_and_again_is_started_ever_later(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector), workers=2)
    first, stays = proxy.workers()
    os.kill(first, signal.SIGKILL)
    (second,) = wait_for_workers(proxy, 1, without={first, stays})
    os.kill(second, signal.SIGKILL)
    output = proxy.wait_for_output("again in 0.4 s")
    assert output.index("again in 0.2 s") < output.index("again in 0.4 s")
    answer = exchange(proxy.port)
    assert answer is not None
    assert answer.status == 200


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
    proxy.wait_for_output("found 1 events that an earlier process left")
    proxy.send_signal(signal.SIGINT)
    proxy.wait_exit()
    counts = exit_counts(proxy.output)
    assert counts["captured"] == counts["waiting"] == len(spooled_ids(proxy.folder))
    slow.close()


counts = st.integers(0, 1000)


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Readings that keep the law of the ledger, of processes that took over any of three files at any time."""
    delivered, memory = draw(counts), draw(counts)
    spools = draw(st.dictionaries(st.sampled_from("abc"), counts))
    adopted = draw(st.dictionaries(st.sampled_from("abc"), st.floats(1, 9)))
    disk = sum(spools.values())
    dropped = draw(st.dictionaries(st.sampled_from(["rejected", "shutdown", "queue_full"]), counts))
    captured = delivered + memory + disk + sum(dropped.values())
    recovered = draw(st.integers(0, captured))
    return Reading(captured, recovered, delivered, memory, disk, dropped, spools=spools, adopted=adopted)


def keeps_the_law(reading: Reading) -> bool:
    return reading.captured == reading.delivered + reading.waiting + reading.dropped_total


@given(st.lists(readings(), max_size=5), st.lists(readings(), max_size=3))
def test_every_event_of_every_worker_is_in_one_place(running: list[Reading], died: list[Reading]) -> None:
    together = total([total([bereaved(reading) for reading in died]), *running])
    assert keeps_the_law(together)
    assert together.waiting_on_disk == sum(together.spools.values())
    assert together.delivered == sum(reading.delivered for reading in [*running, *died])


def test_what_is_in_a_file_counts_with_whom_took_it_over_last() -> None:
    made = Reading(3, 0, 0, 0, 3, spools={"file": 3})
    took = Reading(2, 2, 0, 0, 2, spools={"file": 2}, adopted={"file": 1.0})
    took_last = Reading(2, 2, 1, 0, 1, spools={"file": 1}, adopted={"file": 2.0})
    emptied = Reading(1, 1, 1, 0, 0, adopted={"file": 3.0})
    assert total([bereaved(made)]).waiting_on_disk == 3
    assert total([took, bereaved(made)]).line() == "captured 2, delivered 0, waiting 2, dropped 0"
    assert total([took_last, took, made]).line() == "captured 2, delivered 1, waiting 1, dropped 0"
    assert total([total([made, took]), took_last, emptied]).line() == "captured 2, delivered 2, waiting 0, dropped 0"


def test_no_worker_has_told_anything_yet() -> None:
    assert total([]) == total([NOTHING, bereaved(NOTHING)]) == NOTHING
