"""The counts of workers that run, died and took over files add up to one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import NOTHING, Account, Adoption, Reading
from mitmproxy_moesif.delivery.spool.file import SpoolFile
from mitmproxy_moesif.workers import counts as counts_module
from mitmproxy_moesif.workers.counts import WAITS_FOR_ACCOUNT, Dead, left_behind, total, total_at_end
from tests.delivery.spool.spools import a_chunk

counts = st.integers(0, 1000)


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Readings that keep the law of the ledger, of processes that took over any of three files at any time."""
    delivered, memory = draw(counts), draw(counts)
    spools = draw(st.dictionaries(st.sampled_from("abc"), counts))
    adopted = draw(st.dictionaries(st.sampled_from("abc"), st.builds(Adoption, st.floats(1, 9), counts)))
    disk = sum(spools.values())
    dropped = draw(st.dictionaries(st.sampled_from(["rejected", "shutdown", "queue_full"]), counts))
    captured = delivered + memory + disk + sum(dropped.values())
    recovered = draw(st.integers(0, captured))
    return Reading(captured, recovered, delivered, memory, disk, dropped, spools=spools, adopted=adopted)


def keeps_the_law(reading: Reading) -> bool:
    return reading.captured == reading.delivered + reading.waiting + sum(reading.dropped.values())


@given(st.lists(readings(), max_size=5), st.lists(readings(), max_size=3))
def test_every_event_of_every_worker_is_in_one_place(running: list[Reading], died: list[Reading]) -> None:
    dead = Dead()
    for reading in died:
        dead.add(reading)
    for at_end in (False, True):
        together = total(running, dead, at_end=at_end)
        assert keeps_the_law(together)
        assert together.waiting_on_disk == sum(together.spools.values())
        assert together.delivered == sum(reading.delivered for reading in [*running, *died])


def test_what_is_in_a_file_counts_with_whom_took_it_over_last() -> None:
    made = Reading(3, 0, 0, 0, 3, spools={"file": 3})
    took = Reading(2, 2, 0, 0, 2, spools={"file": 2}, adopted={"file": Adoption(1.0, 2)})
    took_last = Reading(2, 2, 1, 0, 1, spools={"file": 1}, adopted={"file": Adoption(2.0, 2)})
    emptied = Reading(1, 1, 1, 0, 0, adopted={"file": Adoption(3.0, 1)})
    dead = Dead()
    dead.add(made)
    assert total([], dead).waiting_on_disk == 3
    assert total([took], dead).line() == "captured 2, delivered 0, waiting 2, dropped 0"
    assert total([took_last, took, made], Dead()).line() == "captured 2, delivered 1, waiting 1, dropped 0"
    dead = Dead()
    dead.add(made)
    dead.add(took)
    assert total([], dead, at_end=True).line() == "captured 2, delivered 0, waiting 2, dropped 0"
    assert total([took_last, emptied], dead).line() == "captured 2, delivered 2, waiting 0, dropped 0"


def test_what_a_worker_did_after_its_last_reading_is_in_the_account_that_another_finds() -> None:
    """It told of 5 exchanges, 3 of them stored; it captured 9, stored 8, sent 6 of these, and was killed."""
    told = Reading(5, 0, 0, 2, 3, spools={"own": 3}, settled=3, entered=5, proxy="dead")
    account = Account("dead", settled=8, recovered=0, in_memory=0, dropped={"sampled_out": 1})
    other = Reading(1, 1, 0, 0, 1, spools={"own": 1}, adopted={"own": Adoption(1.0, 1, account)})
    dead = Dead()
    dead.add(told)
    assert total([], dead).line() == "captured 5, delivered 0, waiting 5, dropped 0"
    assert total([other], dead).line() == "captured 8, delivered 6, waiting 1, dropped 1 (sampled_out 1)"


def test_what_a_dead_worker_had_in_memory_is_lost_when_nobody_finds_its_account() -> None:
    now = 0.0
    dead = Dead(lambda: now)
    dead.add(Reading(5, 0, 0, 2, 3, spools={"own": 3}, settled=3, entered=5, proxy="dead"))
    assert total([], dead).dropped == {}
    now = WAITS_FOR_ACCOUNT
    assert total([], dead).line() == "captured 5, delivered 0, waiting 3, dropped 2 (worker_died 2)"


def test_at_the_end_each_dead_worker_s_account_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is known from a running worker, one has stored all, with the other's file taken over; one still stores."""
    storing, first, second = (SpoolFile.create(tmp_path, 1 << 26) for _ in range(3))
    of_first = Account("first", settled=20, recovered=0, in_memory=0, dropped={})
    first.append([a_chunk(4)], of_first)
    took = {first.path.name: Adoption(1.0, 4, of_first)}
    files = {name: one.at for name, one in took.items()}
    of_second = Account("second", settled=30, recovered=4, in_memory=0, dropped={}, adopted=took, files=files)
    second.append([a_chunk(2)], of_second)
    for spool in (first, second):
        spool.close(keep=True)
    dead = Dead()
    for proxy in ("first", "second", "storing"):
        dead.add(Reading(1, 0, 0, 1, 0, entered=1, proxy=proxy, folder=str(tmp_path)))
    running = Reading(7, 0, 7, 0, 0, adopted=took)
    looks = 0

    def look(of: Sequence[Reading], readings: Sequence[Reading]) -> Reading:
        nonlocal looks
        looks += 1
        if looks == 3:
            storing.append([a_chunk(3)], Account("storing", settled=10, recovered=0, in_memory=0, dropped={}))
            storing.close(keep=True)
        return left_behind(of, readings)

    monkeypatch.setattr(counts_module, "left_behind", look)
    found = total_at_end([running], dead, seconds=60)
    assert looks == 4  # once more than it takes, as something still stored at the third
    assert found.line() == "captured 67, delivered 58, waiting 9, dropped 0"


@pytest.mark.parametrize("told", [0, 7])
def test_at_the_end_an_older_account_of_a_dead_worker_is_not_enough(
    told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first delivery process died before it did; the second one is still storing, or has not begun to."""
    first = SpoolFile.create(tmp_path, 1 << 26)
    first.append([a_chunk(4)], Account("dead", settled=4, recovered=0, in_memory=0, dropped={}, changes=5))
    first.close(keep=True)
    second = SpoolFile.create(tmp_path, 1 << 26) if not told else None
    dead = Dead()
    dead.add(Reading(4, 0, 0, 4, 0, entered=4, proxy="dead", folder=str(tmp_path), changes=told))
    look, looks = counts_module.left_behind, 0

    def store_meanwhile(of: Sequence[Reading], readings: Sequence[Reading]) -> Reading:
        nonlocal looks, second
        looks += 1
        if looks == 3:
            second = second or SpoolFile.create(tmp_path, 1 << 26)
            account = Account("dead", 9, 0, 0, {}, changes=9, past={first.path.name: 4})
            second.append([a_chunk(5)], account)
            second.close(keep=True)
        return look(of, readings)

    monkeypatch.setattr(counts_module, "left_behind", store_meanwhile)
    assert total_at_end([], dead, seconds=60).line() == "captured 9, delivered 0, waiting 9, dropped 0"


def test_at_the_end_a_delivery_process_that_has_only_just_started_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no file yet, and what its worker told last is older than all that is known of the one before it."""
    first = SpoolFile.create(tmp_path, 1 << 26)
    first.append([a_chunk(4)], Account("dead", settled=4, recovered=0, in_memory=0, dropped={}, changes=5))
    first.close(keep=True)
    starting = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    dead = Dead()
    dead.add(Reading(4, 0, 0, 4, 0, entered=4, proxy="dead", folder=str(tmp_path)), starting.pid)
    look, looks = counts_module.left_behind, 0

    def store_meanwhile(of: Sequence[Reading], readings: Sequence[Reading]) -> Reading:
        nonlocal looks
        looks += 1
        if looks == 3:
            second = SpoolFile.create(tmp_path, 1 << 26)
            account = Account("dead", 9, 0, 0, {}, changes=9, past={first.path.name: 4})
            second.append([a_chunk(5)], account)
            second.close(keep=True)
            starting.communicate(b"\n")
        return look(of, readings)

    monkeypatch.setattr(counts_module, "left_behind", store_meanwhile)
    assert total_at_end([], dead, seconds=60).line() == "captured 9, delivered 0, waiting 9, dropped 0"


def test_a_delivery_process_that_has_ended_is_not_waited_for_where_nobody_else_reaps_it() -> None:
    dead = Dead()
    inherited = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    with inherited:
        dead.add(NOTHING, inherited.pid)
        assert dead.still_store()
        assert inherited.stdin is not None
        inherited.stdin.close()
        os.waitid(os.P_PID, inherited.pid, os.WEXITED | os.WNOWAIT)
        assert not dead.still_store()


def test_no_worker_has_told_anything_yet() -> None:
    assert total([], Dead()) == total([NOTHING], Dead()) == NOTHING
