"""Reads the intact rows of a damaged spool file, page by page instead of through its B-tree.

SQLite cannot read a file whose header or inner pages are damaged, and ignores its write-ahead log from the first bad
frame on. But each leaf page can be read on its own, and each row has its own checksum. So the pages in use are copied
into a new database with an intact header and schema, and one leaf page after the other is made the root of the table.
Rows with a valid checksum are kept. Free pages are skipped, since they may hold rows that were already sent.

Source of the layout: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import io
import os
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mitmproxy_moesif.delivery.spool import format as spool_format
from mitmproxy_moesif.delivery.spool.file import is_damage
from mitmproxy_moesif.delivery.spool.format import COLUMNS, PAGE, Row

LEAF = 0x0D  # first byte of a table's leaf page
FREE = 2  # kind of a page in the pointer map
MAPPED = PAGE // 5  # pages that one page of the pointer map describes

LOG_HEADER = 32
FRAME_HEADER = 24
FRAME = FRAME_HEADER + PAGE

# The "+" makes SQLite scan every row of the page: damaged keys may be out of order.
ROW = f"SELECT {COLUMNS} FROM chunks WHERE +key = ?"  # noqa: S608 - a constant
HEAD = ROW.replace("payload", "x''")


class Log(NamedTuple):
    """The content of a write-ahead log up to its last commit."""

    pages: dict[int, int]
    """The offset in the log of each page's newest version."""
    last: int
    """Number of the last commit's frame, counted from 1; 0 if there is none."""
    page_count: int
    """How many pages the database has after that commit."""


def read_log(log: Path) -> Log:
    """Read a write-ahead log up to the last commit whose frames were all written. Raises OSError.

    Ignores the frames' checksums, which would end the reading at the first bad one, with one exception: the newest
    frame, if an older one follows it, may have been cut off by a kill while it overwrote another.
    """
    pages, uncommitted = dict[int, int](), dict[int, int]()
    last = page_count = 0
    with _open(log) as file:
        frames, older_follow = _newest_round(file)
        if older_follow and not _is_whole(file, frames[-1][0]):
            frames.pop()
    for start, header in frames:
        page, pages_then = struct.unpack_from(">II", header)
        uncommitted[page] = start + FRAME_HEADER
        if pages_then:  # only a transaction's last frame has it
            pages |= uncommitted
            uncommitted.clear()
            last, page_count = (start - LOG_HEADER) // FRAME + 1, pages_then
    return Log(pages, last, page_count)


def _newest_round(file: BinaryIO) -> tuple[list[tuple[int, bytes]], bool]:
    """The offsets and headers of the frames that have the newest salt, and whether frames of earlier rounds follow.

    A new round writes its salt into the log's header first, so that its frames may not be there yet.
    """
    starts = range(LOG_HEADER, _size(file) - FRAME + 1, FRAME)
    head = _read(file, LOG_HEADER, 0)
    salt = head[16:24]
    if len(head) < LOG_HEADER or _checksum(head, head[:24], bytes(8)) != head[24:]:
        salts = [salt, *(_read(file, 8, start + 8) for start in starts[:2])]  # any one of them may be damaged
        salt, _ = Counter(salts).most_common(1)[0]
    headers = ((start, _read(file, FRAME_HEADER, start)) for start in starts)
    frames = [(start, header) for start, header in headers if len(header) == FRAME_HEADER and header[8:16] == salt]
    return frames, bool(frames) and frames[-1][0] != starts[-1]


def _is_whole(file: BinaryIO, start: int) -> bool:
    """Whether a frame has the checksum that follows from the frame, or from the log's header, before it."""
    head, frame = _read(file, LOG_HEADER, 0), _read(file, FRAME, start)
    before = head[24:] if start == LOG_HEADER else _read(file, 8, start - FRAME + 16)
    if len(frame) < FRAME or len(before) < 8:
        return False
    return _checksum(head, frame[:8] + frame[FRAME_HEADER:], before) == frame[16:FRAME_HEADER]


def _checksum(head: bytes, covered: bytes, before: bytes) -> bytes:
    """SQLite's checksum of a part of a log with this header; `before` is that of the part before it."""
    numbers = ">II" if head[3] & 1 else "<II"
    one, two = struct.unpack(">II", before)
    for first, second in struct.iter_unpack(numbers, covered):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return struct.pack(">II", one, two)


def salvage(database: Path, log: Path, copy: Path, unreadable: list[int], accounts: list[bytes]) -> Iterator[Row]:
    """All intact rows, oldest first. Appends the number of events of each damaged row to `unreadable`.

    Before the first row, the content of the account goes into `accounts`, if there is any.

    `copy` is the path of a temporary file. Raises OSError or sqlite3.Error if it cannot be used. Not for a file that
    this process has open in SQLite: closing it here would drop SQLite's locks.
    """
    seen = set[str]()  # with a damaged page number, one row can appear twice
    try:
        leaves = _copy_pages(database, log, copy)
        with closing(spool_format.connect(copy)) as connection:
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, False)
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            accounts += [content for (content,) in _select(connection, "SELECT content FROM account")]
            cells = sorted((key, leaf) for leaf in leaves for key in _keys(connection, leaf))
            for leaf, keys in groupby(cells, itemgetter(1)):
                _make_root(connection, leaf)
                for key, _ in keys:
                    match _salvage_row(connection, key):
                        case Row() as row if row.transaction_ids not in seen:
                            seen.add(row.transaction_ids)
                            yield row
                        case int(events):
                            unreadable.append(events)
    finally:
        copy.unlink(missing_ok=True)


def _copy_pages(database: Path, log: Path, copy: Path) -> list[int]:
    """Copy the newest committed version of each page that is in use; returns the numbers of the leaves."""
    leaves: list[int] = []
    spool_format.build(copy)
    logged = read_log(log)
    with _open(database) as base, _open(log) as newer, copy.open("r+b") as target:
        size = -(-_size(base) // PAGE)
        # Pages behind the database's end are obsolete. A damaged page count must not move that end far away.
        count = min(logged.page_count or size, size + logged.last)
        pointer_map = b""
        for number in range(2, count + 1):
            at = (number - 1) * PAGE
            page = _read(newer, PAGE, logged.pages[number]) if number in logged.pages else _read(base, PAGE, at)
            page = page.ljust(PAGE, b"\0")
            place = (number - 2) % (MAPPED + 1)
            if place == 0:
                pointer_map = page
            elif pointer_map[(place - 1) * 5] == FREE:
                continue
            elif page[0] == LEAF:
                leaves.append(number)
            target.seek(at)
            target.write(page)
        target.seek(18)
        target.write(b"\1\1")  # no write-ahead log
        target.seek(28)
        target.write(bytes(4))  # the page count follows from the file's size
    return leaves


def _make_root(connection: sqlite3.Connection, leaf: int) -> None:
    """Make this page the whole table."""
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = 'chunks'", (leaf,))
    connection.execute("PRAGMA writable_schema = RESET")  # reads the schema again


def _keys(connection: sqlite3.Connection, leaf: int) -> Iterator[int]:
    _make_root(connection, leaf)
    return (key for (key,) in _select(connection, "SELECT key FROM chunks"))


def _salvage_row(connection: sqlite3.Connection, key: int) -> Row | int | None:
    """The row, or the number of events it seems to have had; None if unknown, or if it is another table's row."""
    # If the payload's pages are damaged, the other columns still tell the number of events.
    for found in [*_select(connection, ROW, key)] or _select(connection, HEAD, key):
        row = Row(*found)
        with suppress(ValueError):
            spool_format.decode(row)
            return row
        if isinstance(row.event_count, int) and isinstance(row.transaction_ids, str):
            return max(0, min(row.event_count, row.transaction_ids.count(",") + 1))
    return None


def _select(connection: sqlite3.Connection, query: str, *parameters: int) -> Iterator[tuple[Any, ...]]:
    """The result as far as it can be read. Raises sqlite3.Error for errors other than damage."""
    try:
        yield from connection.execute(query, parameters)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise


def _open(path: Path) -> BinaryIO:
    """Open a file; an empty one if it does not exist."""
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return io.BytesIO()


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _read(file: BinaryIO, size: int, at: int) -> bytes:
    """Read bytes at an offset; empty if the disk cannot read them."""
    try:
        file.seek(at)
        return file.read(size)
    except OSError:
        return b""
