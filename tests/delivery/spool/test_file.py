"""The spool of one process: what is stored, how much room it takes, and what it says when the disk is in trouble."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.file import (
    LOG_BYTES,
    SpoolDamaged,
    SpoolError,
    SpoolFile,
    SpoolFull,
    SpoolVanished,
)
from tests.delivery.spool.spools import MIB, a_chunk, adopted, content, files_of, leave_behind, stored


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[SpoolFile]:
    spool = SpoolFile.create(folder, 64 * MIB)
    yield spool
    spool.close()


def fill(spool: SpoolFile, chunks: int, size: int = 1000) -> list[Chunk]:
    """Append chunks of 50 events one by one."""
    added = [a_chunk(50, size) for _ in range(chunks)]
    for chunk in added:
        spool.append([chunk])
    return added


def has_room(spool: SpoolFile, chunk: Chunk) -> bool:
    try:
        spool.append([chunk])
    except SpoolFull:
        return False
    return True


def keys_of(spool: SpoolFile) -> list[int]:
    return [info.key for info in spool.index()]


def bytes_in(spool: SpoolFile) -> int:
    """Of encoded JSON."""
    return sum(info.bytes for info in spool.index())


def size_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


# -- Storing and reading


def test_what_was_appended_is_read_back_as_it_was(spool: SpoolFile) -> None:
    chunks = [a_chunk(1), a_chunk(50, 1200, created=1234567890.125), a_chunk(2, destination="fedcba9876543210")]
    spool.append(chunks[:2])
    spool.append(chunks[2:])
    assert stored(spool) == [content(chunk) for chunk in chunks]
    assert [chunk.key for chunk in chunks] == keys_of(spool)


def test_the_index_tells_of_each_chunk_without_its_events(spool: SpoolFile) -> None:
    chunks = fill(spool, 5)
    assert [(i.destination, i.created, i.count, i.bytes) for i in spool.index()] == [
        (chunk.destination, chunk.created, 50, chunk.size) for chunk in chunks
    ]
    first, second, third, *_ = keys_of(spool)
    assert [info.key for info in spool.index(after=first, limit=2)] == [second, third]


def test_a_removed_chunk_is_gone_and_its_key_is_never_used_again(spool: SpoolFile) -> None:
    gone = a_chunk()
    spool.append([gone])
    assert gone.key is not None
    spool.remove([gone.key, gone.key + 1000])
    with pytest.raises(KeyError):
        spool.load(gone.key)
    later = a_chunk()
    spool.append([later])
    assert later.key is not None
    assert later.key > gone.key


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk("d", 1.0, ("a",), (b'{"a":\n1}',)),
        Chunk("d", 1.0, ("a", "b"), (b"{}",)),
        Chunk("d", 1.0, (), ()),
    ],
    ids=["a raw newline", "more ids than events", "no event"],
)
def test_a_chunk_that_could_not_be_taken_apart_again_is_refused(spool: SpoolFile, chunk: Chunk) -> None:
    with pytest.raises(ValueError, match="transaction id"):
        spool.append([a_chunk(), chunk])
    assert spool.index() == []


def test_a_row_that_is_not_what_was_stored_is_damaged_and_the_others_are_not(spool: SpoolFile) -> None:
    bad, good = a_chunk(), a_chunk()
    spool.append([bad, good])
    assert bad.key is not None
    assert good.key is not None
    assert spool._connection is not None
    spool._connection.execute("UPDATE chunks SET payload = replace(payload, '{', '[') WHERE key = ?", (bad.key,))
    with pytest.raises(SpoolDamaged):
        spool.load(bad.key)
    assert content(spool.load(good.key)) == content(good)
    spool.remove([bad.key])
    assert keys_of(spool) == [good.key]


def test_two_threads_may_use_it_at_once(spool: SpoolFile) -> None:
    keys: list[int] = []
    done = threading.Event()

    def write() -> None:
        for _ in range(200):
            chunk = a_chunk()
            spool.append([chunk])
            keys.append(chunk.key or 0)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    removed = 0
    while not done.is_set() or removed < len(keys):
        for key in keys[removed:]:
            assert spool.load(key).key == key
            spool.remove([key])
            removed += 1
    writer.join()
    assert removed == 200
    assert spool.is_empty()


# -- Space


def test_past_the_bound_nothing_is_stored_until_there_is_room(folder: Path) -> None:
    spool = SpoolFile.create(folder, 1 * MIB)
    with pytest.raises(SpoolFull):
        fill(spool, 100)
    before = stored(spool)
    assert 600_000 < bytes_in(spool) < MIB
    with pytest.raises(SpoolFull):
        spool.append([a_chunk(1), a_chunk(50, 2000)])
    assert stored(spool) == before
    spool.remove(keys_of(spool)[:3])
    fill(spool, 2)
    spool.close()


def test_the_disk_never_holds_more_than_the_bound(folder: Path) -> None:
    """Whatever the sizes of the chunks, log included."""
    for size in (30, 400, 3000):
        spool = SpoolFile.create(folder, 2 * MIB)
        while has_room(spool, a_chunk(2, size)):
            assert size_on_disk(folder) <= 2 * MIB
        for key in keys_of(spool)[::2]:
            spool.remove([key])
            assert size_on_disk(folder) <= 2 * MIB
        spool.remove(keys_of(spool))
        spool.close()


def test_the_disk_gets_its_space_back_after_a_drain(folder: Path, spool: SpoolFile) -> None:
    fill(spool, 300)
    spool.remove(keys_of(spool))
    assert size_on_disk(folder) > 15 * MIB
    while spool.shrink():
        pass
    assert size_on_disk(folder) < MIB // 8
    assert spool.disk_bytes == size_on_disk(folder)


def test_space_comes_back_while_fresh_events_keep_coming(folder: Path, spool: SpoolFile) -> None:
    fill(spool, 400)
    fresh = fill(spool, 3)
    spool.remove(keys_of(spool)[:-3])
    steps = 1
    while spool.shrink():
        steps += 1
    assert size_on_disk(folder) < 2 * MIB
    assert stored(spool) == [content(chunk) for chunk in fresh]
    assert steps > 1, "one call should not take long, whatever there is to give back"


def test_shrinking_leaves_alone_what_the_next_events_need(folder: Path, spool: SpoolFile) -> None:
    fill(spool, 12)
    spool.remove(keys_of(spool)[:6])
    before = [(file.name, file.stat().st_mtime_ns) for file in files_of(spool.path)]
    assert not spool.shrink()
    assert [(file.name, file.stat().st_mtime_ns) for file in files_of(spool.path)] == before


def test_the_log_does_not_grow_with_what_passes_through(folder: Path, spool: SpoolFile) -> None:
    passed = 0
    while passed < 3 * LOG_BYTES:
        fill(spool, 30)
        passed += bytes_in(spool)
        spool.remove(keys_of(spool))
    assert size_on_disk(folder) < LOG_BYTES + 4 * MIB


def test_a_large_transaction_does_not_leave_a_large_log(folder: Path) -> None:
    spool = SpoolFile.create(folder, 256 * MIB)
    chunks = [a_chunk(50, 1000) for _ in range(600)]
    assert sum(chunk.size for chunk in chunks) > LOG_BYTES + 4 * MIB
    spool.append(chunks)
    spool.append([a_chunk()])
    log = spool.path.with_name(spool.path.name + "-wal")
    assert log.stat().st_size < LOG_BYTES + MIB
    spool.close()


# -- Files


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_nobody_else_may_read_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        spool = SpoolFile.create(tmp_path / "above" / "spool", MIB)
        spool.append([a_chunk()])
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files_of(spool.path)}
    assert set(modes) == {spool.path.name + suffix for suffix in ("", "-wal", ".lock")}
    assert all(mode & 0o077 == 0 for mode in modes.values())
    assert modes[spool.path.name] == modes[spool.path.name + "-wal"] == 0o600
    for folder in (spool.path.parent, spool.path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    if umask == 0:
        assert stat.S_IMODE(spool.path.parent.stat().st_mode) == 0o700
    spool.close()


def test_an_empty_spool_leaves_nothing_behind(folder: Path) -> None:
    spool = SpoolFile.create(folder, MIB)
    chunk = a_chunk()
    spool.append([chunk])
    spool.remove([chunk.key or 0])
    spool.close()
    spool.close()
    assert list(folder.iterdir()) == []


def test_what_is_left_is_one_whole_file(folder: Path) -> None:
    spool = SpoolFile.create(folder, 64 * MIB)
    chunks = fill(spool, 3)
    spool.close()
    assert list(folder.iterdir()) == [spool.path]
    (again,) = adopted(folder)
    assert again.path == spool.path
    assert stored(again) == [content(chunk) for chunk in chunks]
    again.close()


def test_a_closed_spool_says_so(spool: SpoolFile) -> None:
    spool.close()
    for use in (lambda: spool.append([a_chunk()]), lambda: spool.load(1), spool.index, spool.shrink):
        with pytest.raises(SpoolError, match="closed"):
            use()


# -- Trouble


def test_a_folder_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SpoolError) as caught:
        SpoolFile.create(tmp_path / "file" / "spool", MIB)
    assert "\n" not in str(caught.value)
    with pytest.raises(SpoolError):
        SpoolFile.create(tmp_path / "file", MIB)


@pytest.mark.parametrize("suffix", ["", "-wal", ".lock"])
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_file_that_vanished_is_noticed_and_can_still_be_read(spool: SpoolFile, suffix: str, replaced: bool) -> None:
    chunk = a_chunk()
    spool.append([chunk])
    file = spool.path.with_name(spool.path.name + suffix)
    file.unlink()
    if replaced:
        file.touch()
    for _ in range(2):
        with pytest.raises(SpoolVanished):
            spool.append([a_chunk()])
    assert stored(spool) == [content(chunk)]
    spool.remove([chunk.key or 0])
    assert spool.index() == []
    spool.close()
    assert file.exists() is replaced


def test_a_folder_removed_while_running_loses_nothing_that_the_caller_moves(folder: Path) -> None:
    spool = SpoolFile.create(folder, 64 * MIB)
    chunks = fill(spool, 30, 4000)
    shutil.rmtree(folder)
    with pytest.raises(SpoolVanished):
        spool.append([a_chunk()])
    assert spool.disk_bytes == 0
    successor = SpoolFile.create(folder, 64 * MIB)
    successor.append([spool.load(info.key) for info in spool.index()])
    spool.close()
    assert stored(successor) == [content(chunk) for chunk in chunks]
    successor.append([a_chunk()])
    successor.close()


# -- Against a model


class SpoolModel(RuleBasedStateMachine):
    """Any sequence of calls, closings and deaths leaves what a dictionary would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.folders = (self.home / str(n) for n in range(1000))
        self.spool = SpoolFile.create(next(self.folders), 64 * MIB)
        self.model: dict[int, Chunk] = {}

    @rule(shapes=st.lists(st.tuples(st.integers(1, 5), st.sampled_from([20, 300, 5000, 60_000])), max_size=4))
    def append(self, shapes: list[tuple[int, int]]) -> None:
        chunks = [a_chunk(events, size) for events, size in shapes]
        self.spool.append(chunks)
        self.model |= {chunk.key or 0: chunk for chunk in chunks}

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        keys = data.draw(st.sets(st.sampled_from(sorted(self.model))))
        self.spool.remove(keys)
        for key in keys:
            del self.model[key]

    @rule()
    def shrink(self) -> None:
        self.spool.shrink()

    @precondition(lambda self: self.model)
    @rule()
    def close_and_adopt(self) -> None:
        self.spool.close()
        (self.spool,) = adopted(self.spool.path.parent)

    @precondition(lambda self: self.model)
    @rule()
    def die_and_be_adopted(self) -> None:
        path = leave_behind(self.spool, next(self.folders))
        self.spool.close()
        (self.spool,) = adopted(path.parent)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert {info.key: content(self.spool.load(info.key)) for info in self.spool.index()} == {
            key: content(chunk) for key, chunk in self.model.items()
        }
        assert [(info.key, info.count, info.bytes) for info in self.spool.index()] == [
            (key, len(chunk.events), chunk.size) for key, chunk in sorted(self.model.items())
        ]
        assert self.spool.is_empty() is not bool(self.model)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.home)


TestSpoolModel = SpoolModel.TestCase
TestSpoolModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
