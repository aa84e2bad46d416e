"""What dead processes left is taken over, whatever state it is in; what is not ours to take is left as it was."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.directory import SpoolDirectory
from mitmproxy_moesif.delivery.spool.file import SpoolFile
from tests.delivery.spool.spools import MIB, a_chunk, adopted, content, dead_spool, files_of, leave_behind, stored

PAGE = 4096
ROWS_OF_A_PAGE = 8  # at most, with the chunks below
FOREIGN_NAME = "spool-4711-0badcafe.sqlite"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def sizes(count: int) -> list[Chunk]:
    """Chunks of which some share a page and some take several."""
    return [a_chunk(1 + n % 5, 60 + 3000 * (n % 7 == 3)) for n in range(count)]


@contextmanager
def taken_over(folder: Path) -> Iterator[list[SpoolFile]]:
    spools = list(adopted(folder))
    yield spools
    for spool in spools:
        spool.close()


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# -- Dead and alive


def test_a_dead_process_s_file_is_taken_over_once(folder: Path) -> None:
    chunks = sizes(30)
    path = dead_spool(folder, chunks)
    with taken_over(folder) as spools:
        (spool,) = spools
        assert spool.path == path
        assert stored(spool) == [content(chunk) for chunk in chunks]
        assert list(adopted(folder)) == []
        spool.remove([info.key for info in spool.index()])
    assert names(folder) == set()


def test_a_living_spool_is_nobody_else_s(folder: Path) -> None:
    """Not even for the process that owns it, and not once it is older than its process's other spool."""
    living = SpoolFile.create(folder, 64 * MIB)
    living.append([a_chunk()])
    another = SpoolFile.create(folder, 64 * MIB)
    before = names(folder)
    dead = dead_spool(folder, [a_chunk()])
    with taken_over(folder) as spools:
        assert [spool.path for spool in spools] == [dead]
    assert names(folder) == before | {dead.name}
    living.append([a_chunk()])
    assert len(living.index()) == 2
    living.close()
    another.close()


def test_a_living_spool_whose_lock_file_was_removed_is_left_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second guard: SQLite's own lock. What a cleaner of temporary files does must not make two owners."""
    living = SpoolFile.create(folder, 64 * MIB)
    chunk = a_chunk()
    living.append([chunk])
    living.path.with_name(living.path.name + ".lock").unlink()
    directory = SpoolDirectory(folder, 64 * MIB)
    assert list(directory.adopt()) == []
    assert list(directory.adopt()) == []
    assert len(messages(caplog, logging.WARNING)) == 1
    assert stored(living) == [content(chunk)]
    living.close()


def test_what_a_dying_start_left_is_cleared_away(folder: Path) -> None:
    for name in ("spool-1-00000001.sqlite.lock", "spool-2-00000002.sqlite.new", "spool-2-00000002.sqlite.new-journal"):
        (folder / name).write_bytes(b"half")
    assert list(adopted(folder)) == []
    assert names(folder) == set()


def test_other_files_are_not_touched(folder: Path) -> None:
    others = {"remote-configuration.json", "spool.sqlite", "myspool-1-2.sqlite", "spool-1-2.sqlite.bak"}
    others |= {"spool-x.sqlite.damaged-2026", "spool-x.sqlite.damaged-2026-wal"}
    for name in others:
        (folder / name).write_text("theirs")
    (folder / FOREIGN_NAME).mkdir()
    os.mkfifo(folder / "spool-9-00000009.sqlite")
    before = names(folder)
    assert list(adopted(folder)) == []
    assert names(folder) == before
    assert {(folder / name).read_text() for name in others} == {"theirs"}


def test_without_a_folder_there_is_nothing_to_take_over(tmp_path: Path) -> None:
    assert list(adopted(tmp_path / "none")) == []


def test_a_file_left_by_a_later_release_is_kept_for_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = dead_spool(folder, [a_chunk()])
    with path.open("r+b") as file:
        file.seek(60)
        file.write(struct.pack(">I", 2))
    before = {file.name: file.read_bytes() for file in files_of(path)}
    directory = SpoolDirectory(folder, 64 * MIB)
    assert list(directory.adopt()) == []
    assert list(directory.adopt()) == []
    assert {file.name: file.read_bytes() for file in files_of(path)} == before
    (warning,) = messages(caplog, logging.WARNING)
    assert "later release" in warning
    assert messages(caplog, logging.ERROR) == []


def test_another_program_s_database_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / FOREIGN_NAME
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.executemany("INSERT INTO notes VALUES (?)", [("not ours" * 100,)] * 100)
        connection.commit()
    before = path.read_bytes()
    directory = SpoolDirectory(folder, 64 * MIB)
    assert list(directory.adopt()) == []
    assert list(directory.adopt()) == []
    assert names(folder) == {FOREIGN_NAME}
    assert path.read_bytes() == before
    (warning,) = messages(caplog, logging.WARNING)
    assert "another program" in warning


def test_a_file_in_use_elsewhere_is_taken_over_when_it_is_free(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As by an operator who looks into it with SQLite's shell. It is told once, and tried again every minute."""
    chunk = a_chunk()
    path = dead_spool(folder, [chunk])
    now = 0.0
    directory = SpoolDirectory(folder, 64 * MIB, clock=lambda: now)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert list(directory.adopt()) == []
        now = 61.0
        assert list(directory.adopt()) == []
    assert len(messages(caplog, logging.WARNING)) == 1
    now = 100.0
    assert list(directory.adopt()) == []
    now = 200.0
    ((_, spool),) = directory.adopt()
    assert stored(spool) == [content(chunk)]
    spool.close()


@pytest.mark.parametrize("log", ["new", "grown", "begun anew"])
def test_a_kill_in_the_middle_of_a_write_is_no_damage(
    log: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever the log's writing stopped: what was stored before is there, and no file is called damaged."""
    spool = SpoolFile.create(tmp_path / "living", 64 * MIB)
    connection = spool._connection
    assert connection is not None
    if log == "new":
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    spool.append(gone := sizes(30))
    spool.remove([chunk.key or 0 for chunk in gone])
    spool.append(kept := sizes(12))
    if log == "begun anew":
        connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    elif log == "new":
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database = spool.path.read_bytes()
    before = spool.path.with_name(spool.path.name + "-wal").read_bytes()
    spool.append(more := sizes(5))
    assert spool.path.read_bytes() == database
    after = spool.path.with_name(spool.path.name + "-wal").read_bytes()
    assert (len(after) == len(before)) == (log == "begun anew")
    changed = [at for at in log_writes(len(after)) if after[:at] != before[:at]]
    for end in changed:
        home = tmp_path / f"dead-{end}"
        home.mkdir()
        (home / spool.path.name).write_bytes(database)
        (home / f"{spool.path.name}-wal").write_bytes(after[:end] + before[end:])
        with taken_over(home) as spools:
            found = [row for one in spools for row in stored(one)]
            assert [one.path.name for one in spools] == [spool.path.name]
        assert found in ([content(chunk) for chunk in kept], [content(chunk) for chunk in kept + more])
    assert len(changed) > 10
    assert messages(caplog, logging.ERROR) == []
    spool.remove([info.key for info in spool.index()])
    spool.close()


def log_writes(size: int) -> list[int]:
    """Where a write to the log may end: behind its head, the head of a frame, a frame, and where memory's pages end."""
    frames = range(32, size + 1, 24 + PAGE)
    ends = {32, size, *frames, *(at + 24 for at in frames), *range(0, size, PAGE)}
    return sorted(at for at in ends if 0 < at <= size)


# -- Damage


@pytest.mark.parametrize(
    "content_of_the_file",
    [b"", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100, b"just a note\n", b"SQLite format 3\0", bytes(20 * PAGE)],
    ids=["zero-length", "picture", "text", "header only", "zeros"],
)
def test_what_is_no_spool_is_set_aside_with_one_error(
    folder: Path, caplog: pytest.LogCaptureFixture, content_of_the_file: bytes
) -> None:
    (folder / FOREIGN_NAME).write_bytes(content_of_the_file)
    good = [a_chunk()]
    dead_spool(folder, good)
    with taken_over(folder) as spools:
        assert [stored(spool) for spool in spools] == [[content(chunk) for chunk in good]]
    (error,) = messages(caplog, logging.ERROR)
    assert FOREIGN_NAME in error
    (aside,) = folder.glob(FOREIGN_NAME + "*")
    assert aside.name.startswith(FOREIGN_NAME + ".damaged-")
    assert aside.read_bytes() == content_of_the_file
    caplog.clear()
    with taken_over(folder):
        assert messages(caplog, logging.ERROR) == []


def test_one_damaged_chunk_costs_no_other(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    chunks = sizes(40)
    path = dead_spool(folder, chunks)
    damage(path, chunks[10].events[0])
    with taken_over(folder) as spools:
        (spool,) = spools
        assert stored(spool) == [content(chunk) for n, chunk in enumerate(chunks) if n != 10]
        assert spool.unreadable_events == len(chunks[10].events)
        assert spool.path != path
    (error,) = messages(caplog, logging.ERROR)
    assert all(event.decode() not in error for chunk in chunks for event in chunk.events)
    assert (folder / f"{path.name}-wal").exists() is False
    assert len(list(folder.glob(path.name + ".damaged-*"))) == 2, "the database and its log"
    assert list(folder.glob("*.new*")) == []


def test_events_whose_pages_are_out_of_reach_are_counted(folder: Path) -> None:
    chunks = [a_chunk(5, 2000), a_chunk(7, 2000), a_chunk(9, 2000)]
    path = checkpointed(dead_spool(folder, chunks))
    at = path.read_bytes().index(chunks[1].events[3][:1000])
    overwrite(path, at // PAGE * PAGE, b"\xff\xff\xff\xff")
    with taken_over(folder) as spools:
        (spool,) = spools
        assert stored(spool) == [content(chunks[0]), content(chunks[2])]
        assert spool.unreadable_events == 7


OLD_SCHEMA = """CREATE TABLE chunks (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    created REAL NOT NULL,
    event_count INTEGER NOT NULL,
    event_bytes INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    transaction_ids TEXT NOT NULL,
    payload BLOB NOT NULL
)"""
OLD_PRAGMAS = """PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
PRAGMA application_id = 0x4D6F6553; PRAGMA user_version = 1;"""


@pytest.mark.parametrize("damaged", [False, True])
def test_what_release_0_1_0_wrote_is_taken_over(folder: Path, damaged: bool) -> None:
    """Its layout is written out here, so that it is read for as long as there may be such files."""
    path = folder / "spool-17-0a1b2c3d.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_PRAGMAS + OLD_SCHEMA)
        for ids, payload in (("a-1,a-2", b'{"n":1}\n{"n":2}'), ("b-1", b'{"n":3}')):
            crc = zlib.crc32(b"0123456789abcdef|1500000000.5|" + ids.encode() + payload)
            row = ("0123456789abcdef", 1.5e9 + 0.5, ids.count(",") + 1, 14, crc, ids, payload)
            connection.execute("INSERT INTO chunks VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()
    if damaged:
        overwrite(path, 16, b"\0\0")
    with taken_over(folder) as spools:
        (spool,) = spools
        assert (spool.path == path) is not damaged
        assert stored(spool) == [
            ("0123456789abcdef", 1.5e9 + 0.5, ("a-1", "a-2"), (b'{"n":1}', b'{"n":2}')),
            ("0123456789abcdef", 1.5e9 + 0.5, ("b-1",), (b'{"n":3}',)),
        ]


@pytest.mark.parametrize("left", [b"", b"?" * 5000, None], ids=["emptied", "overwritten", "gone"])
def test_the_log_alone_is_enough(folder: Path, left: bytes | None) -> None:
    """The database beside it lost its content, or is gone."""
    chunks = sizes(40)
    path = dead_spool(folder, chunks)
    path.unlink() if left is None else path.write_bytes(left)
    with taken_over(folder) as spools:
        assert [stored(spool) for spool in spools] == [[content(chunk) for chunk in chunks]]
        assert spools[0].unreadable_events == 0


def test_ids_that_are_no_text_any_more_cost_their_chunk_alone(folder: Path) -> None:
    chunks = sizes(40)
    path = checkpointed(dead_spool(folder, chunks))
    before = path.read_bytes()
    path.write_bytes(before.replace(chunks[3].transaction_ids[0].encode()[5:30], b"\xff" * 25))
    with taken_over(folder) as spools:
        assert stored(spools[0]) == [content(chunk) for n, chunk in enumerate(chunks) if n != 3]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"CREATE TABLE chunks", b"CREATE \x80ABLE chunks"),
        (b" key INTEGER", b" kex INTEGER"),
        (b"sqlite_sequence", b"sqlite_Sequence"),
    ],
)
def test_a_damaged_schema_costs_nothing(folder: Path, before: bytes, after: bytes) -> None:
    """It is no text any more, or SQLite understands something else."""
    chunks = sizes(40)
    path = checkpointed(dead_spool(folder, chunks))
    path.write_bytes(path.read_bytes().replace(before, after))
    with taken_over(folder) as spools:
        (spool,) = spools
        assert stored(spool) == [content(chunk) for chunk in chunks]
        spool.append([a_chunk()])


def test_rows_outlive_the_tree_above_them(folder: Path) -> None:
    """The header and the inner pages are ruined, with everything else in its place."""
    chunks = [a_chunk(20, 400) for _ in range(200)]
    path = checkpointed(dead_spool(folder, chunks))
    ruined = 0
    with path.open("r+b") as file:
        for number in range(path.stat().st_size // PAGE):
            file.seek(number * PAGE)
            if number == 0 or file.read(1) == b"\x05":
                file.seek(number * PAGE)
                file.write(b"ruin" * (PAGE // 4))
                ruined += 1
    assert ruined > 1
    with taken_over(folder) as spools:
        (spool,) = spools
        assert stored(spool) == [content(chunk) for chunk in chunks]


def test_a_log_without_its_header_is_read(folder: Path) -> None:
    chunks = sizes(40)
    path = dead_spool(folder, chunks)
    overwrite(path.with_name(path.name + "-wal"), 0, b"?" * 32)
    with taken_over(folder) as spools:
        assert stored(spools[0]) == [content(chunk) for chunk in chunks]


def test_damage_that_only_a_removal_would_meet_is_found_before_it(folder: Path) -> None:
    """All rows can be read, but the map of which page belongs to which is wrong."""
    chunks = [a_chunk(20, 400) for _ in range(30)]
    path = checkpointed(dead_spool(folder, chunks))
    overwrite(path, PAGE + 5 * 20 + 1, b"\0\0\0\1")
    with taken_over(folder) as spools:
        (spool,) = spools
        assert spool.path != path
        assert stored(spool) == [content(chunk) for chunk in chunks]
        assert spool.unreadable_events == 0


def test_what_was_removed_does_not_come_back_out_of_a_damaged_file(folder: Path) -> None:
    spool = SpoolFile.create(folder.with_name("living"), 64 * MIB)
    chunks = sizes(60)
    spool.append(chunks)
    spool.remove([chunk.key or 0 for chunk in chunks[5:50]])
    spool.append(more := sizes(3))
    path = leave_behind(spool, folder)
    spool.remove([info.key for info in spool.index()])
    spool.close()
    damage(path, chunks[55].events[0])
    with taken_over(folder) as spools:
        assert stored(spools[0]) == [content(chunk) for chunk in chunks[:5] + chunks[50:55] + chunks[56:] + more]


def test_a_file_that_was_shrunk_halfway_gives_each_row_once(folder: Path) -> None:
    """The pages behind the new end of the database still hold what was moved from there."""
    spool = SpoolFile.create(folder.with_name("living"), 64 * MIB)
    chunks = [a_chunk(50, 1000) for _ in range(120)]
    spool.append(chunks)
    spool.remove([chunk.key or 0 for chunk in chunks[:110]])
    assert spool._connection is not None
    spool._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    spool._connection.execute("PRAGMA incremental_vacuum(800)").fetchall()
    path = leave_behind(spool, folder)
    spool.remove([info.key for info in spool.index()])
    spool.close()
    damage(path, chunks[115].events[0])
    with taken_over(folder) as spools:
        assert stored(spools[0]) == [content(chunk) for chunk in chunks[110:115] + chunks[116:]]


@settings(max_examples=60)
@given(data=st.data())
def test_a_truncated_file_gives_what_is_left_of_it(data: st.DataObject) -> None:
    with damaged_copy(data) as (path, chunks, gone):
        file = data.draw(st.sampled_from(files_of(path)))
        os.truncate(file, data.draw(st.integers(0, file.stat().st_size - 1)))
        with taken_over(path.parent) as spools:
            found = [row for spool in spools for row in stored(spool)]
        assert_each_at_most_once(found, chunks + gone)


@settings(max_examples=150)
@given(data=st.data())
def test_a_flipped_bit_costs_a_page_at_most(data: st.DataObject) -> None:
    """Wherever it is, in the database or its log: nothing false is sent, and what shares no page with it is."""
    with damaged_copy(data) as (path, chunks, gone):
        file = data.draw(st.sampled_from(files_of(path)))
        at = data.draw(st.integers(0, file.stat().st_size - 1))
        # How long the database is after a commit is told in four bytes of the log, and nowhere else.
        assume(not (file.name.endswith("-wal") and 4 <= (at - 32) % (24 + PAGE) < 8))
        flip(file, at, 1 << data.draw(st.integers(0, 7)))
        directory = SpoolDirectory(path.parent, 64 * MIB)
        spools = [spool for _, spool in directory.adopt()]
        found = [row for spool in spools for row in stored(spool)]
        assert_each_at_most_once(found, chunks + gone)
        version = 60 <= at < 64 and not file.name.endswith("-wal")
        # A log frame that names another page spoils two.
        kept = {row[2] for row in found} & {chunk.transaction_ids for chunk in chunks}
        assert version or len(kept) >= len(chunks) - 2 * ROWS_OF_A_PAGE
        for spool in spools:
            spool.append([a_chunk()])
            spool.close()


@settings(max_examples=60)
@given(data=st.data())
def test_any_garbage_is_survived(data: st.DataObject) -> None:
    with damaged_copy(data) as (path, chunks, gone):
        for file in files_of(path):
            for _ in range(data.draw(st.integers(1, 30))):
                at = data.draw(st.integers(0, file.stat().st_size - 1))
                overwrite(file, at, data.draw(st.binary(min_size=1, max_size=40)))
        with taken_over(path.parent) as spools:
            found = [row for spool in spools for row in stored(spool)]
        assert_each_at_most_once(found, chunks + gone)


def assert_each_at_most_once(found: list[tuple[object, ...]], chunks: list[Chunk]) -> None:
    """Nothing is found that was not appended, byte for byte. What was removed may be: the log may have lost that."""
    originals = [content(chunk) for chunk in chunks]
    assert all(row in originals for row in found)
    assert len(found) == len({row[2] for row in found})


@contextmanager
def damaged_copy(data: st.DataObject) -> Iterator[tuple[Path, list[Chunk], list[Chunk]]]:
    """A dead process's spool to be damaged: what it holds (half of it in the log, all or nothing) and what it held."""
    with tempfile.TemporaryDirectory() as home:
        spool = SpoolFile.create(Path(home) / "living", 64 * MIB)
        chunks, gone = sizes(50), sizes(20)
        spool.append([*gone[:10], *chunks[:25]])
        if data.draw(st.booleans(), label="half of it in the database"):
            assert spool._connection is not None
            spool._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        spool.append([*gone[10:], *chunks[25:]])
        spool.remove([chunk.key or 0 for chunk in gone])
        path = leave_behind(spool, Path(home) / "dead")
        spool.remove([info.key for info in spool.index()])
        spool.close()
        if data.draw(st.booleans(), label="all of it in the database"):
            checkpointed(path)
        yield path, chunks, gone


def checkpointed(path: Path) -> Path:
    """Move what the log holds into the database."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path


def damage(path: Path, text: bytes) -> None:
    """Change a byte of every copy of a text in a spool's files."""
    hits = 0
    for file in files_of(path):
        before = file.read_bytes()
        part = text[10:40]
        file.write_bytes(before.replace(part, part[:5] + b"#" + part[6:]))
        hits += before.count(part)
    assert hits


def flip(file: Path, at: int, bits: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ bits]))


def overwrite(file: Path, at: int, garbage: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(garbage)


def test_a_backlog_of_many_files_is_taken_over_in_one_go(folder: Path) -> None:
    """With one bad file among them, at a random place."""
    chunks = [a_chunk() for _ in range(12)]
    paths = [dead_spool(folder, [chunk]) for chunk in chunks]
    bad = random.randrange(12)
    for file in files_of(paths[bad]):
        file.write_bytes(b"x" * 10_000)
    with taken_over(folder) as spools:
        found = {row for spool in spools for row in stored(spool)}
    assert found == {content(chunk) for n, chunk in enumerate(chunks) if n != bad}
