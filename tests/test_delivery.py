"""Delivered, waiting or counted: real proxies, a collector in trouble, and kills.

The oracle everywhere, by transaction id: what the collector has, what is still in the spool, and the counted drops
together are what the clients sent.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import ADDON_SCRIPT, wire
from tests.support.addon import addon_options, exit_counts, option_changer
from tests.support.client import exchange
from tests.support.collector import (
    LOST_AFTER_ACCEPT,
    NEVER,
    Answer,
    Received,
    ScriptedCollector,
    refuse_events,
    refuse_larger,
)
from tests.support.proxy import BIN, Mitmdump
from tests.support.traffic import Load, kill_under_load, send_many
from tests.support.upstream import ScriptedUpstream
from tests.test_delivery_process import wait_for_status

Start = Callable[..., Mitmdump]
KILLS = int(os.environ.get("MOESIF_TEST_KILLS", "6"))


def spooled_ids(folder: Path) -> list[str]:
    """The transaction ids in all spool files of a folder whose processes have ended."""
    ids = []
    for path in sorted((folder / "moesif-spool").glob("spool-*.sqlite")):
        with closing(sqlite3.connect(path)) as spool:
            ids += [one for (row,) in spool.execute("SELECT transaction_ids FROM chunks") for one in row.split(",")]
    return ids


@pytest.mark.parametrize("spool", ["on", "off"])
def test_server_errors_lose_nothing_and_are_asked_less_and_less(
    spool: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.enqueue(*(Answer(status) for status in (500, 502, 503, 504)))
    options = addon_options(collector, **({"spool_dir": "off"} if spool == "off" else {}))
    proxy = mitmdump(upstream.url, options)
    sent = send_many(proxy.port, 120)
    collector.wait_for(120, timeout=30)
    assert collector.unique_ids() == set(sent)
    assert len(collector.ids()) == 120
    probes = [post.at for post in collector.posts()[:5]]
    gaps = [later - earlier for earlier, later in pairwise(probes)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 1.5
    assert proxy.output.count("the receiver is unavailable (status 500)") == 1
    assert proxy.output.count("the receiver is back after") == 1


def test_a_lone_event_waits_for_its_batch_and_no_longer(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    """Not until the connection to the collector is closed for idleness, either."""
    proxy = mitmdump(upstream.url, addon_options(collector, keepalive=60_000))
    for count in range(1, 4):
        send_many(proxy.port, 1)
        collector.wait_for(count, timeout=5)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected(
    form: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    due: list[float] = []

    def once(received: Received) -> Answer | None:
        if due:
            return None
        due.append(int(received.wall + 3) if form == "date" else received.wall + 2)
        return Answer(429, {"Retry-After": "2" if form == "seconds" else formatdate(due[0], usegmt=True)})

    collector.script = once
    proxy = mitmdump(upstream.url, addon_options(collector))
    sent = send_many(proxy.port, 10)
    collector.wait_for(10)
    assert collector.posts()[1].wall >= due[0] - 0.1
    assert collector.unique_ids() == set(sent)


def test_an_oversize_event_is_dropped_alone_and_named_by_its_id(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.script = refuse_larger(60_000)
    proxy = mitmdump(upstream.url, addon_options(collector, flush_interval=1000, api_version="a-tag"))
    small = send_many(proxy.port, 20)
    (large,) = send_many(proxy.port, 1, body=b"secret-body" * 8000)
    small += send_many(proxy.port, 20)
    collector.wait_for(40)
    assert proxy.stop() == 0
    assert collector.unique_ids() == set(small)
    counts = exit_counts(proxy.output)
    assert counts["causes"] == {"refused": 1}
    assert counts["captured"] == 41
    assert f"moesif: the receiver refused event {large} (status 413)" in proxy.output
    assert "secret-body" not in proxy.output


def test_one_poison_event_among_200(mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream) -> None:
    collector.script = refuse_events(lambda event: event["request"]["uri"].endswith("/poison"))
    proxy = mitmdump(upstream.url, addon_options(collector, flush_interval=300))
    sent = send_many(proxy.port, 120)
    (poison,) = send_many(proxy.port, 1, target="/poison")
    sent += send_many(proxy.port, 79)
    collector.wait_for(199)
    assert proxy.stop() == 0
    assert collector.unique_ids() == set(sent)
    assert exit_counts(proxy.output)["causes"] == {"refused": 1}
    assert poison in proxy.output


def test_what_a_run_without_collector_captured_the_next_one_sends(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ScriptedCollector(refusing=True) as collector:
        proxy = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=300), folder=tmp_path)
        sent = send_many(proxy.port, 130)
        assert proxy.stop() == 0
        counts = exit_counts(proxy.output)
        assert (counts["captured"], counts["waiting"], counts["dropped"]) == (130, 130, 0)
        assert sorted(spooled_ids(tmp_path)) == sorted(sent)
        collector.listen()
        again = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
        collector.wait_for(130)
        assert again.stop() == 0
        assert sorted(collector.ids()) == sorted(sent)
        assert exit_counts(again.output) == {
            "captured": 130,
            "delivered": 130,
            "waiting": 0,
            "dropped": 0,
            "causes": {},
        }
        assert not list((tmp_path / "moesif-spool").glob("spool-*"))


@pytest.mark.parametrize("trouble", ["black hole", "drip", "drip in the head"])
def test_deadlines_hold_against_a_collector_that_hangs(
    trouble: str, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    answer = {
        "black hole": NEVER,
        "drip": Answer(201, body=b"x" * 500, drip=0.2),
        "drip in the head": Answer(201, drip=0.2),
    }
    collector.enqueue(*[answer[trouble]] * 2)
    proxy = mitmdump(upstream.url, addon_options(collector, connect_timeout=300, send_timeout=700))
    sent = send_many(proxy.port, 60)
    collector.wait_for(lambda c: len(c.posts()) >= 3 and c.unique_ids() >= set(sent), timeout=15)
    assert collector.posts()[2].at - collector.posts()[0].at < 10
    more = send_many(proxy.port, 10)
    collector.wait_for(70)
    assert collector.unique_ids() == {*sent, *more}


def test_an_answer_lost_after_accept_is_resent_with_the_same_ids(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    collector.enqueue(LOST_AFTER_ACCEPT)
    proxy = mitmdump(upstream.url, addon_options(collector))
    sent = send_many(proxy.port, 30)
    collector.wait_for(lambda c: len(c.ids()) > 30)
    assert proxy.stop() == 0
    assert collector.unique_ids() == set(sent)
    assert exit_counts(proxy.output)["delivered"] == 30


@pytest.mark.parametrize("round_number", range(KILLS))
def test_kill_9_loses_at_most_the_last_instant(
    round_number: int, mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    dice = random.Random(round_number)
    with ScriptedCollector(refusing=dice.random() < 0.5) as collector:
        proxy = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
        safe = kill_under_load(proxy, dice.randrange(200, 600))
        collector.listen()
        again = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
        collector.wait_for(lambda c: safe <= c.unique_ids())
        assert again.stop() == 0
        assert safe
        counts = exit_counts(again.output)
        assert counts["captured"] == counts["delivered"] + counts["waiting"]


def test_sigterm_under_load_with_the_collector_down(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ScriptedCollector() as collector:
        collector.black_hole = True
        proxy = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=1500), folder=tmp_path)
        load = Load(proxy.port).start()
        load.wait_for(200)
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait_exit(timeout=10) == 0
        seen = load.stop()
        counts = exit_counts(proxy.output)
        assert counts["dropped"] == 0
        waiting = spooled_ids(tmp_path)
        assert counts["captured"] == counts["waiting"] == len(waiting)
        assert set(seen) <= set(waiting)


def test_a_second_signal_ends_at_once_with_the_spool_intact(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ScriptedCollector() as collector:
        collector.black_hole = True
        proxy = mitmdump(
            upstream.url, addon_options(collector, shutdown_timeout=60_000, send_timeout=60_000), folder=tmp_path
        )
        sent = send_many(proxy.port, 60)
        proxy.send_signal(signal.SIGINT)
        proxy.wait_for_output("stopped")
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait_exit(timeout=15) == 0
        assert sorted(spooled_ids(tmp_path)) == sorted(sent)


def test_a_full_queue_counts_exactly_and_never_blocks(mitmdump: Start, upstream: ScriptedUpstream) -> None:
    with ScriptedCollector() as collector:
        collector.black_hole = True
        options = addon_options(collector, spool_dir="off", event_queue_size=10, shutdown_timeout=200)
        proxy = mitmdump(upstream.url, options)
        send_many(proxy.port, 100)
        assert proxy.stop() == 0
        counts = exit_counts(proxy.output)
        assert counts["captured"] == 100
        assert counts["causes"] == {"queue_full": 90, "shutdown": 10}
        assert proxy.output.count("80 % full") == 1


def test_bytes_bound_the_queue_as_well(mitmdump: Start, upstream: ScriptedUpstream) -> None:
    upstream.handler = lambda _, connection: connection.send(wire.response(200, [], b"y" * 90_000))
    with ScriptedCollector() as collector:
        collector.black_hole = True
        options = addon_options(collector, spool_dir="off", queue_max_bytes=1_000_000, shutdown_timeout=200)
        proxy = mitmdump(upstream.url, options)
        send_many(proxy.port, 60)
        assert proxy.stop() == 0
        causes = exit_counts(proxy.output)["causes"]
        assert causes["queue_bytes"] + causes["shutdown"] == 60
        assert 5 <= causes["shutdown"] <= 12


def test_a_full_spool_drops_the_newest_and_counts_them(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.handler = lambda _, connection: connection.send(wire.response(200, [], b"y" * 90_000))
    with ScriptedCollector(refusing=True) as collector:
        options = addon_options(collector, spool_max_bytes=2_000_000, shutdown_timeout=300)
        proxy = mitmdump(upstream.url, options, folder=tmp_path)
        sent = send_many(proxy.port, 40)
        assert proxy.stop() == 0
        counts = exit_counts(proxy.output)
        kept = spooled_ids(tmp_path)
        assert counts["captured"] == 40
        assert counts["waiting"] == len(kept) >= 5
        assert counts["causes"] == {"spool_full": 40 - len(kept)}
        assert set(kept) < set(sent)
        assert proxy.output.count("the spool is full") == 1


@pytest.mark.parametrize("background", ["process", "threads"])
def test_a_live_bound_of_the_spool_counts_at_once(
    background: str, mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.handler = lambda _, connection: connection.send(wire.response(200, [], b"y" * 90_000))
    with ScriptedCollector(refusing=True) as collector:
        options = addon_options(collector, background=background, shutdown_timeout=300, admin_listen="127.0.0.1:0")
        scripts = [ADDON_SCRIPT, option_changer(tmp_path)]
        proxy = mitmdump(upstream.url, options, scripts=scripts, folder=tmp_path)

        def bound(size: int) -> None:
            answer = exchange(proxy.port, headers=[("X-Change", f"moesif_spool_max_bytes={size}")])
            assert answer is not None
            assert answer.body == b"taken"

        bound(1_000_000)
        send_many(proxy.port, 30)
        proxy.wait_for_output("the spool is full (moesif_spool_max_bytes); new events are dropped and counted")
        # What is yet to be stored would have room with the next bound.
        wait_for_status(proxy, lambda status: status["captured"] == 31 and not status["waiting"]["memory"])
        bound(10_000_000)
        sent = send_many(proxy.port, 10)
        assert proxy.stop() == 0
        counts, kept = exit_counts(proxy.output), spooled_ids(tmp_path)
        assert set(sent) <= set(kept)
        assert len(kept) < 30
        assert counts["captured"] == 42
        assert counts["causes"] == {"spool_full": 42 - len(kept)}


def test_a_folder_removed_while_running(mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    with ScriptedCollector(refusing=True) as collector:
        proxy = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
        sent = send_many(proxy.port, 60)
        proxy.wait_for_output("the receiver is unavailable")
        shutil.rmtree(tmp_path / "moesif-spool")
        sent += send_many(proxy.port, 60)
        proxy.wait_for_output("events stay in memory until the disk works again")
        proxy.wait_for_output("the spool works again")
        sent += send_many(proxy.port, 10)
        collector.listen()
        collector.wait_for(130, timeout=30)
        assert proxy.stop() == 0
        assert collector.unique_ids() == set(sent)
        assert exit_counts(proxy.output)["dropped"] == 0


def test_a_disk_that_takes_no_more(mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """A limit on the size of files, as a full disk: the spool cannot grow, events stay in memory, none is lost."""
    upstream.handler = lambda _, connection: connection.send(wire.response(200, [], b"y" * 9000))
    with ScriptedCollector(refusing=True) as collector:
        proxy = mitmdump(
            upstream.url,
            {**addon_options(collector), "flow_detail": 0},
            folder=tmp_path,
            program=["prlimit", "--fsize=300000", str(BIN / "mitmdump")],
        )
        sent = send_many(proxy.port, 150)
        proxy.wait_for_output("events stay in memory until the disk works again")
        assert proxy.output.count("events stay in memory until the disk works again") == 1
        collector.listen()
        collector.wait_for(150, timeout=30)
        assert proxy.stop() == 0
        assert collector.unique_ids() == set(sent)
        assert exit_counts(proxy.output)["dropped"] == 0


@pytest.mark.parametrize("folder", ["a-file", "a-file/spool"])
def test_a_spool_folder_that_cannot_be_made(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path, folder: str
) -> None:
    """The log says so, and not that something in it cannot be read, or is to be closed to others."""
    (tmp_path / "a-file").write_text("in the way")
    options = addon_options(collector, spool_dir=str(tmp_path / folder))
    proxy = mitmdump(upstream.url, options)
    proxy.wait_for_output("events stay in memory")
    sent = send_many(proxy.port, 20)
    collector.wait_for(20)
    assert proxy.stop() == 0
    assert collector.unique_ids() == set(sent)
    assert not [wrong for wrong in ("Errno", "cannot be read", "chmod") if wrong in proxy.output]


def test_a_damaged_spool_is_set_aside_and_the_rest_of_it_sent(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ScriptedCollector(refusing=True) as collector:
        proxy = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=100), folder=tmp_path)
        sent = []
        for _ in range(12):  # chunks of their own, so that one can be spoilt and the others stay
            sent += send_many(proxy.port, 10)
            time.sleep(0.06)
        assert proxy.stop() == 0
        (spool,) = (tmp_path / "moesif-spool").glob("spool-*.sqlite")
        content = bytearray(spool.read_bytes())
        middle = content.index(sent[60].encode())
        content[middle] ^= 1
        spool.write_bytes(content)
        (tmp_path / "moesif-spool" / "spool-1-00000000.sqlite").write_bytes(b"")
        (tmp_path / "moesif-spool" / "notes.txt").write_text("not ours")
        collector.listen()
        again = mitmdump(upstream.url, addon_options(collector), folder=tmp_path)
        collector.wait_for(60)
        assert again.stop() == 0
        assert collector.unique_ids() < set(sent)
        for path in (spool, tmp_path / "moesif-spool" / "spool-1-00000000.sqlite"):
            assert again.output.count(f"{path} is damaged") == 1
            assert not path.exists()
        assert exit_counts(again.output)["captured"] == 120
        assert (tmp_path / "moesif-spool" / "notes.txt").exists()


CLOCK = """
import time
real, offset = time.time, 0

def requestheaders(flow):
    global offset
    if step := flow.request.headers.get("x-clock-step"):
        offset += int(step)
        time.time = lambda: real() + offset
"""


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_wall_clock_that_jumps_an_hour_changes_nothing(
    step: int, mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    script = tmp_path / "clock.py"
    script.write_text(CLOCK)
    collector.enqueue(Answer(503), Answer(429, {"Retry-After": "1"}))
    proxy = mitmdump(upstream.url, addon_options(collector), scripts=[script, ADDON_SCRIPT])
    sent = send_many(proxy.port, 10)
    collector.wait_for(lambda c: len(c.posts()) >= 1)
    exchange(proxy.port, headers=[("X-Clock-Step", str(step))])
    sent += send_many(proxy.port, 10)
    collector.wait_for(21, timeout=15)
    assert proxy.stop() == 0
    assert set(sent) < collector.unique_ids()
    assert exit_counts(proxy.output)["dropped"] == 0


def test_two_proxies_on_one_spool_folder(
    mitmdump: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    spool = {"moesif_spool_dir": str(tmp_path / "moesif-spool")}
    collector.enqueue(*[Answer(503)] * 4)
    one, other = (mitmdump(upstream.url, {**addon_options(collector), **spool}) for _ in range(2))
    sent = [*send_many(one.port, 100), *send_many(other.port, 100)]
    one.kill()
    collector.wait_for(200, timeout=30)
    assert other.stop() == 0
    assert collector.unique_ids() == set(sent)
    assert exit_counts(other.output)["waiting"] == 0
    assert spooled_ids(tmp_path) == []


def test_rejected_credentials_keep_everything_and_say_so(
    mitmdump: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with ScriptedCollector() as collector:
        collector.script = lambda _: Answer(401)
        proxy = mitmdump(upstream.url, addon_options(collector, shutdown_timeout=300), folder=tmp_path)
        sent = send_many(proxy.port, 60)
        proxy.wait_for_output("does not accept the application id (status 401)")
        assert proxy.stop() == 0
        assert len(collector.posts()) == 1
        assert sorted(spooled_ids(tmp_path)) == sorted(sent)
        assert "check moesif_application_id" in proxy.output
