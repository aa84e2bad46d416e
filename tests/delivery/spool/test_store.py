"""The store: each event that was put is delivered once, in whatever order things happen, whatever the disk does."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import Account, Ledger
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.directory import RETRY_SECONDS
from mitmproxy_moesif.delivery.spool.file import ChunkInfo, SpoolDamaged, SpoolError, SpoolFile, SpoolFull, look_into
from mitmproxy_moesif.delivery.spool.maintenance import Maintenance
from mitmproxy_moesif.delivery.spool.store import Store
from tests.delivery.spool.spools import MIB, a_chunk
from tests.delivery.spool.stores import ONE, TWO, Disk, Script, World

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where files are made by the thousand."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Installed for the test, and well when it ends: so that files can be closed."""
    disk = Disk()
    disk.install(monkeypatch)
    yield disk
    disk.bad = range(0)


# --- an error at every statement


def put_and_send(world: World) -> None:
    """Two destinations, fresh and backlog, answers of all kinds."""
    world.put(ONE, TWO, ONE)
    world.put(ONE)
    world.take(fresh=True)
    world.settle("half")
    world.put(TWO, ONE)
    world.take()
    world.keep()
    world.settle("half")
    world.take(TWO, fresh=True)
    world.settle()
    world.keep()


def return_to_disk(world: World) -> None:
    """What was put while there was no folder is moved, and so is what the lost file held: part of it in a hand."""
    world.put(ONE, ONE, TWO)
    world.put(ONE, ONE)
    world.take(fresh=True)
    world.settle("unavailable")
    world.take(most=2)
    world.remove_folder()
    world.put(ONE, TWO)
    world.keep()
    world.put(ONE)
    world.settle("half")
    world.keep()
    world.keep()


def move_what_is_partly_settled(world: World) -> None:
    world.put(events=4)
    world.put(events=4)
    world.take(fresh=True, most=8)
    world.settle("half")
    world.take(most=8)
    world.settle("half")
    world.remove_folder()
    world.keep()
    world.put()
    world.keep()


def take_over(world: World) -> None:
    world.inherit(ONE, TWO, ONE)
    world.put(ONE)
    world.keep()
    world.take()
    world.settle("half")
    world.inherit(TWO)
    world.keep()
    world.take(TWO)
    world.settle()


def lose_what_was_taken_over(world: World) -> None:
    """The files of others go with the folder as well."""
    world.inherit(ONE, TWO, ONE, ONE)
    with world.disk.well():
        world.keep()
    world.take(most=2)
    world.remove_folder()
    world.keep()
    world.settle("unavailable")
    world.keep()


def fail_and_return(world: World) -> None:
    """A receiver that comes and goes while there is a backlog, with one batch or two in a hand."""
    world.put(ONE, ONE, ONE)
    world.take(fresh=True, most=2)
    world.settle("unavailable")
    world.put(ONE, ONE)
    world.take(fresh=True, most=2)
    world.put(ONE)
    world.settle("unavailable")
    world.keep()
    world.take(most=2)
    world.put(ONE, ONE)
    world.take(fresh=True, most=2)
    world.settle("half")
    world.settle("unavailable")
    world.keep()


STAYING = [put_and_send, fail_and_return, take_over]
SCRIPTS = [*STAYING, return_to_disk, move_what_is_partly_settled, lose_what_was_taken_over]


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_faults_everything_arrives_once(script: Script, folder: Path) -> None:
    world = World(folder)
    script(world)
    world.everything_arrived()


def each_fault(disk: Disk, script: Script, lengths: tuple[int, ...]) -> Iterator[tuple[World, Path]]:
    """The script once for each of its statements and each length of an outage that begins there."""
    first, last = 0, 1
    for length in lengths:
        first = 0
        while first < last:
            with tempfile.TemporaryDirectory(dir=MEMORY) as home:
                world = World(Path(home) / "spool", disk)
                disk.statements, disk.bad = 0, range(first, first + length)
                script(world)
                last = disk.statements
                yield world, Path(home)
                disk.bad = range(0)
                world.store.close()
            first += 1
        assert first > 10


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE])
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_error_at_any_statement_loses_nothing(script: Script, code: int, disk: Disk) -> None:
    """Nor does it deliver anything twice, for as long as the process lives."""
    disk.code = code
    for world, _ in each_fault(disk, script, (1, 4, 10_000)):
        disk.bad = range(0)
        world.everything_arrived()


@pytest.mark.parametrize("script", STAYING)
def test_a_process_that_ends_while_the_disk_fails_loses_what_was_in_memory_alone(script: Script, disk: Disk) -> None:
    for world, _ in each_fault(disk, script, (2, 10_000)):
        world.store.close()
        disk.bad = range(0)
        world.ledger.abandon("shutdown")
        lost = world.check().dropped.get("shutdown", 0)
        after = World(world.folder)
        reading = after.deliver_all()
        assert (reading.waiting, reading.dropped) == (0, {})
        assert len(set(world.put_ids).difference(world.delivered, after.delivered)) <= lost
        after.store.close()


# --- any order of things, any outages

DESTINATIONS = st.sampled_from([ONE, TWO])
ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.lists(DESTINATIONS, min_size=1, max_size=3), st.sampled_from([100, 3_000_000])),
    st.tuples(st.just("take"), DESTINATIONS, st.booleans(), st.integers(1, 6)),
    st.tuples(st.just("settle"), st.sampled_from(["accepted", "half", "unavailable"])),
    st.tuples(st.just("keep")),
    st.tuples(st.just("remove the folder")),
    st.tuples(st.just("inherit"), DESTINATIONS),
    st.tuples(st.just("outage"), st.integers(0, 20), st.integers(1, 30)),
)


def act(world: World, name: str, *arguments: Any) -> None:
    match name:
        case "put":
            destinations, size = arguments
            world.put(*destinations, size=size)
        case "take":
            destination, fresh, most = arguments
            if not any(taken_for == destination for taken_for, _ in world.leased):  # each sender has one batch
                world.take(destination, fresh=fresh, most=most)
        case "settle":
            world.settle(*arguments)
        case "keep":
            world.keep()
        case "remove the folder":
            with world.disk.well():  # what nobody has taken over yet would rightly be gone
                world.now += RETRY_SECONDS
                world.keep()
            world.remove_folder()
        case "inherit":
            world.inherit(*arguments)
        case "outage":
            begin, length = arguments
            world.disk.bad = range(world.disk.statements + begin, world.disk.statements + begin + length)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=30))
def test_in_any_order_and_with_any_outages_each_event_arrives_once(actions: list[tuple[Any, ...]], disk: Disk) -> None:
    disk.bad = range(0)
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        world = World(Path(home) / "spool", disk)
        try:
            for name, *arguments in actions:
                act(world, name, *arguments)
            disk.bad = range(0)
            world.everything_arrived()
        finally:
            disk.bad = range(0)
            world.store.close()


KILLED = st.one_of(
    st.tuples(st.just("put"), st.lists(DESTINATIONS, max_size=8), st.sampled_from([100, 30_000])),
    st.tuples(st.just("take"), DESTINATIONS, st.booleans(), st.integers(1, 6)),
    st.tuples(st.just("settle"), st.sampled_from(["accepted", "half", "refused", "half refused", "unavailable"])),
    st.tuples(st.just("keep")),
    st.tuples(st.just("inherit"), DESTINATIONS),
)


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(KILLED, max_size=30))
def test_in_any_order_the_files_tell_what_a_killed_process_has_done(actions: list[tuple[Any, ...]]) -> None:
    """Also where there is no room for all."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as home:
        world = World(Path(home) / "spool", max_bytes=MIB)
        try:
            for name, *arguments in actions:
                act(world, name, *arguments)
                told, truth = world.told_by_files(), world.ledger.read()
                assert told.line() == truth.line()
                assert told.recovered == truth.recovered
        finally:
            world.store.close()


# --- one thing at a time


def test_a_fresh_batch_that_fails_during_a_backlog_is_not_read_from_disk_as_well(folder: Path) -> None:
    world = World(folder)
    world.put(ONE, ONE, ONE)
    world.take(fresh=True, most=2)
    world.settle("unavailable")
    world.put(ONE, ONE)
    world.take(fresh=True, most=2)
    world.settle("unavailable")
    world.everything_arrived()


def test_what_reached_the_disk_in_another_order_than_it_came_is_not_forgotten(folder: Path, disk: Disk) -> None:
    world = World(folder, disk)
    disk.bad = range(100_000)
    world.put()
    disk.bad = range(0)
    world.put()
    world.keep()
    world.store.demote(ONE)
    world.everything_arrived()


@pytest.mark.parametrize("lost", ["the folder", "the disk"])
def test_what_is_in_a_hand_while_the_disk_comes_back_is_on_disk_again(lost: str, folder: Path, disk: Disk) -> None:
    """A receiver that hangs has the oldest batch in hand nearly all the time."""
    world = World(folder, disk)
    if lost == "the disk":
        disk.bad = range(100_000)
    world.put(ONE, ONE)
    world.take(fresh=True)
    disk.bad = range(0)
    if lost == "the folder":
        world.remove_folder()
    world.keep()
    world.keep()
    killed = leave(world, folder.with_name("left"))
    assert killed.deliver_all().delivered == 4
    killed.store.close()
    world.settle("half")
    world.everything_arrived()


def leave(world: World, folder: Path) -> World:
    """The next process's, after this one was killed now."""
    for path in world.folder.glob("*.sqlite*"):
        if path.suffix != ".lock":
            folder.mkdir(exist_ok=True)
            shutil.copy(path, folder / path.name)
    return World(folder)


def test_a_process_that_ends_right_after_its_folder_was_lost_saves_what_waits(folder: Path) -> None:
    world = World(folder)
    world.put(ONE, TWO, ONE, ONE)
    world.take(fresh=True, most=2)
    world.settle("unavailable")
    world.take(most=2)
    world.put()
    world.take(TWO, fresh=True)
    world.remove_folder()
    world.store.close()
    world.ledger.abandon("shutdown")
    assert world.check().waiting_on_disk == 10
    after = World(folder)
    reading = after.deliver_all()
    assert (reading.delivered, reading.dropped) == (10, {})
    after.store.close()


def test_what_cannot_be_saved_from_a_lost_folder_is_counted(folder: Path, disk: Disk) -> None:
    world = World(folder, disk)
    world.put(ONE, TWO, ONE)
    world.store.demote(ONE)
    world.take(TWO, fresh=True)
    world.remove_folder()
    folder.write_bytes(b"in the way")
    world.store.close()
    world.ledger.abandon("shutdown")
    reading = world.check()
    assert (reading.waiting, reading.dropped) == (0, {"shutdown": 6})


def test_a_lost_folder_is_not_made_again_for_nothing(folder: Path) -> None:
    world = World(folder)
    world.put()
    world.take(fresh=True)
    world.settle()
    world.remove_folder()
    world.store.close()
    assert not folder.exists()


def test_a_lost_folder_is_noticed_without_traffic(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moesif")
    world = World(folder)
    world.put()
    world.store.demote(ONE)
    world.remove_folder()
    world.keep()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    world.store.close()
    after = World(folder)
    assert after.deliver_all().delivered == 2
    after.store.close()


def test_trouble_with_another_s_file_is_not_trouble_with_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(folder)
    world.inherit(ONE)
    world.keep()
    ours = set(folder.glob("*.sqlite"))

    def shrink(spool: SpoolFile) -> bool:
        if spool.max_bytes == 128 * MIB:
            raise SpoolDamaged("cannot shrink the spool")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(SpoolFile, "shrink", shrink)
        for _ in range(5):
            world.keep()
            world.put()
    assert set(folder.glob("*.sqlite")) == ours
    assert world.store.spools.trouble is None
    assert len(caplog.records) == 1
    world.everything_arrived()


def test_a_disk_that_stays_full_is_told_once(folder: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    """Although the receiver takes what could not be stored, so that nothing has to be moved."""
    caplog.set_level(logging.INFO, "moesif")
    world = World(folder, disk)
    disk.bad = range(100_000)
    for _ in range(5):
        world.put()
        world.take(fresh=True)
        world.settle()
        with disk.well():  # there is room for a page, and no more
            world.keep()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    disk.bad = range(0)
    world.keep()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    world.everything_arrived()


def test_a_file_that_cannot_be_read_keeps_back_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(folder)
    world.inherit(ONE, ONE)
    world.keep()
    (inherited,) = world.store.spools._others
    index = SpoolFile.index

    def fail(spool: SpoolFile, after: int = 0, limit: int = -1) -> list[ChunkInfo]:
        if spool is inherited:
            raise SpoolError("cannot read the spool")
        return index(spool, after, limit)

    with monkeypatch.context() as patch:
        patch.setattr(SpoolFile, "index", fail)
        assert not world.take()
        assert world.store.due(ONE, 1, 0.0) is None
        world.put()
        world.store.demote(ONE)
        assert world.store.due(ONE, 1, 0.0) == 0.0
        assert world.take()
        world.settle()
        assert world.store.maintain() == [ONE]
        assert not world.take()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert world.store.due(ONE, 1, 0.0) is None
    assert world.store.maintain() == [ONE]
    assert world.store.maintain() == []
    world.everything_arrived()


def test_what_finds_no_room_is_dropped_and_counted_as_such(folder: Path) -> None:
    world = World(folder, max_bytes=MIB)
    world.put(*[ONE] * 20, size=40_000)
    reading = world.deliver_all()
    assert set(reading.dropped) == {"spool_full"}
    assert 0 < reading.dropped["spool_full"] < 40
    assert reading.delivered == 40 - reading.dropped["spool_full"]
    world.store.close()


def test_what_meets_another_error_while_there_is_little_room_is_not_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(folder)
    errors = iter([SpoolFull("full"), SpoolError("cannot write"), SpoolError("cannot write")])

    def append(_spool: SpoolFile, *_what: object) -> None:
        raise next(errors)

    with monkeypatch.context() as patch:
        patch.setattr(SpoolFile, "append", append)
        world.put(ONE, ONE)
    world.everything_arrived()


def test_a_backlog_of_large_events_is_read_a_few_megabytes_at_a_time(folder: Path) -> None:
    world = World(folder, max_bytes=256 * MIB)
    for _ in range(30):
        world.put(events=1, size=1_000_000)
    world.store.demote(ONE)
    loaded = []
    load = SpoolFile.load

    def count(spool: SpoolFile, key: int) -> Chunk:
        loaded.append(key)
        return load(spool, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpoolFile, "load", count)
        world.take()
    assert len(loaded) <= 10
    world.everything_arrived()


def test_what_is_taken_over_after_the_end_is_left_to_the_next(folder: Path) -> None:
    """Maintenance that was just reading a large file: the same process may go on with another store."""
    world = World(folder)
    world.inherit(ONE)
    found = world.store.spools.left_behind()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store.spools, "left_behind", lambda: found)
        world.store.close()
        assert world.store.adopt() == []
    assert world.check().captured == 0
    after = World(folder)
    assert after.deliver_all().delivered == 2
    after.store.close()


def test_what_is_put_after_the_end_is_sent_by_nobody(folder: Path) -> None:
    """The builder may be late. The account tells such events as lost: one that was sent all the same would be wrong."""
    world = World(folder)
    world.put(ONE)
    world.deliver_all()
    world.store.close(keep=True)
    world.put(ONE)
    assert world.store.take_fresh(ONE, 100, MIB) == world.store.take_backlog(ONE, 100, MIB) == []


def test_maintenance_wakes_those_whose_backlog_can_be_read_again() -> None:
    ledger, told = Ledger(), threading.Event()

    class Resuming(Store):
        def maintain(self) -> list[str]:
            return [ONE]

    maintenance = Maintenance(
        Resuming(ledger, None, MIB), ledger, lambda destination: told.set() if destination == ONE else None
    )
    maintenance.start()
    assert told.wait(10)
    maintenance.stop()


def test_the_oldest_event_ages_wherever_it_waits(folder: Path) -> None:
    """Also in the hand of a sender whose receiver hangs."""
    world = World(folder)
    world.put()
    world.now = 10
    assert world.store.oldest_age([ONE]) == 10
    world.take(fresh=True)
    world.put()
    assert world.store.oldest_age([ONE]) == 10
    world.settle("unavailable")
    assert (world.store.oldest_age([ONE]) or 0) >= 10
    world.deliver_all()
    assert world.store.oldest_age([ONE]) is None
    world.store.close()


@pytest.mark.parametrize("when", ["before", "meanwhile", "once counted"])
def test_the_account_of_a_dead_process_outlives_one_that_ends_as_it_takes_the_file_over(
    when: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is empty, as all was delivered: nothing but the account is in it."""
    account = Account("dead", settled=7, recovered=0, in_memory=0, dropped={})
    dead = SpoolFile.create(folder, MIB)
    dead.note(account)
    dead.close(keep=True)
    world = World(folder)
    end = world.store.close
    if when == "before":
        end()
    elif when == "meanwhile":
        monkeypatch.setattr(SpoolFile, "account", lambda spool, read=SpoolFile.account: (end(), read(spool))[1])
    world.store.adopt()
    if when == "once counted":
        end()
    adopted = [one.account for one in world.ledger.read().adopted.values()]
    assert [*adopted, look_into(dead.path)[0]] in ([account, None], [account])


def test_what_was_refused_while_others_are_stored_stays_in_the_account(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account that is written last must not be the one that was made first."""
    world = World(folder)
    world.put(ONE)
    world.take(fresh=True)
    refusing = threading.Thread(target=world.settle, args=["refused"])
    append = SpoolFile.append

    def meanwhile(spool: SpoolFile, chunks: Sequence[Chunk], account: Account | None = None) -> None:
        refusing.start()
        refusing.join(0.2)  # in vain where it waits its turn
        append(spool, chunks, account)

    with monkeypatch.context() as patch:
        patch.setattr(SpoolFile, "append", meanwhile)
        world.put(TWO)
        refusing.join()
    assert world.told_by_files().line() == "captured 4, delivered 0, waiting 2, dropped 2 (refused 2)"
    world.store.close()


def test_what_was_refused_from_another_s_file_is_in_the_account(folder: Path) -> None:
    world = World(folder)
    world.inherit(ONE)
    world.keep()
    world.take()
    world.settle("refused")
    assert world.told_by_files().line() == "captured 2, delivered 0, waiting 0, dropped 2 (refused 2)"
    world.store.close()


@pytest.mark.parametrize("disk_fails", [False, True])
def test_what_was_refused_of_a_chunk_is_not_refused_again_by_the_next_process(
    disk_fails: bool, folder: Path, disk: Disk
) -> None:
    """The receiver has refused one half and was away for the other when the process was killed."""
    world = World(folder, disk)
    world.put(ONE, events=4)
    world.take(fresh=True)
    if disk_fails:
        disk.bad = range(disk.statements, 100_000)
    world.settle("half refused")
    disk.bad = range(0)
    world.put(TWO)
    assert world.told_by_files().line() == "captured 6, delivered 0, waiting 4, dropped 2 (refused 2)"
    after = leave(world, folder.with_name("left"))
    assert after.deliver_all().line() == "captured 4, delivered 4, waiting 0, dropped 0"
    after.store.close()
    world.deliver_all()
    world.store.close()


def test_the_later_rest_of_a_chunk_is_what_stays(folder: Path) -> None:
    """Two senders may come in the other order: the rest of the first is the second's at once."""
    spool = SpoolFile.create(folder, MIB)
    chunk = a_chunk(3)
    spool.append([chunk])
    assert chunk.key is not None
    rests = [Chunk(ONE, 1.0, chunk.transaction_ids[:count], chunk.events[:count]) for count in (1, 2)]
    for rest in rests:
        spool.remove([], None, {chunk.key: rest})
    assert spool.load(chunk.key).events == chunk.events[:1]
    spool.close()


def test_what_found_no_room_is_in_the_account(folder: Path) -> None:
    world = World(folder, max_bytes=MIB)
    for _ in range(3):
        world.put(*[ONE] * 10, size=40_000)
    assert world.told_by_files().line() == world.ledger.read().line()
    assert world.ledger.read().dropped["spool_full"] > 0
    world.store.close()


def test_a_spool_above_a_lowered_limit_drops_new_events_and_keeps_the_account(folder: Path) -> None:
    world = World(folder, max_bytes=8 * MIB)
    for _ in range(20):
        world.put(ONE, size=60_000)
    world.store.spools.bound(MIB)
    world.put(ONE, TWO)
    world.put()
    assert world.check().dropped == {"spool_full": 6}
    world.store.close(keep=True)
    (path,) = folder.glob("spool-*.sqlite")
    account, events = look_into(path)
    assert account is not None
    assert (account.settled, account.dropped, events) == (46, {"spool_full": 6}, 40)
