"""What a spool file looks like: an SQLite database with one row for each chunk, and one for its process's account.

A row carries a checksum over all that it says, because SQLite itself has none: a flipped bit in a body is found when
the row is read, and never sent. Nothing in a file is secret: bodies are masked before they get here, the destination is
a hash.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from mitmproxy_moesif.delivery.spool.chunk import Chunk

MAGIC = b"SQLite format 3\0"
APPLICATION_ID = 0x4D6F6553  # "MoeS", in the database's header
VERSION = 1  # the database's user_version; a file of a later one belongs to a later release
PAGE = 4096  # bytes
# What follows the magic in the header: page size, log mode for writing and reading, and constants. SQLite believes all
# of it: with one bit flipped, the file can be read but never again be written to.
LAYOUT = PAGE.to_bytes(2) + bytes((2, 2, 0, 64, 32, 32))

SCHEMA = """CREATE TABLE chunks (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    created REAL NOT NULL,
    event_count INTEGER NOT NULL,
    event_bytes INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    transaction_ids TEXT NOT NULL,
    payload BLOB NOT NULL
)"""
# An account is JSON. Without a rowid its page is none of those that a recovery takes for chunks.
ACCOUNT_SCHEMA = "CREATE TABLE account (key INTEGER PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
# What SQLite then says of its tables. AUTOINCREMENT makes the second one; files of older releases lack the third.
TABLES = [
    ("chunks", "chunks", SCHEMA),
    ("sqlite_sequence", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)"),
    ("account", "account", ACCOUNT_SCHEMA),
]
# The payload stands last, so that a listing never touches the pages it overflows into.
COLUMNS = "destination, created, event_count, event_bytes, crc, transaction_ids, payload"
INSERT = f"INSERT INTO chunks ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant


class Row(NamedTuple):
    """A chunk as it is stored: ids joined by commas, events by newlines; `event_bytes` leaves the newlines out."""

    destination: str
    created: float
    event_count: int
    event_bytes: int
    crc: int
    transaction_ids: str
    payload: bytes


class Header(NamedTuple):
    """The fields of a database's first page that tell whose file it is."""

    application_id: int
    version: int
    layout: bytes


def checksum(destination: str, created: float, transaction_ids: str, payload: bytes) -> int:
    """CRC-32 of all that a row says; its count and size follow from the rest."""
    return zlib.crc32(payload, zlib.crc32(f"{destination}|{created!r}|{transaction_ids}".encode()))


def encode(chunk: Chunk) -> Row:
    """The row of a chunk. ValueError where it could not be taken apart again: that would be a fault of the caller."""
    payload = b"\n".join(chunk.events)
    count = len(chunk.events)
    if not count or len(chunk.transaction_ids) != count or any(b"\n" in event for event in chunk.events):
        raise ValueError("a chunk needs one transaction id for each event, and no event may hold a newline")
    ids = ",".join(chunk.transaction_ids)
    created = float(chunk.created)
    crc = checksum(chunk.destination, created, ids, payload)
    return Row(chunk.destination, created, count, len(payload) - count + 1, crc, ids, payload)


def decode(row: Row, key: int | None = None) -> Chunk:
    """The chunk of a row. ValueError where it is not what was stored."""
    try:
        crc = checksum(row.destination, row.created, row.transaction_ids, row.payload)
        ids = tuple(row.transaction_ids.split(","))
        events = tuple(row.payload.split(b"\n"))
    except (TypeError, AttributeError) as e:
        raise ValueError("a column is not of its type") from e
    if row.crc != crc:
        raise ValueError("the checksum does not match")
    if not len(ids) == len(events) == row.event_count:
        raise ValueError("the number of events does not match")
    return Chunk(row.destination, row.created, ids, events, key)


def read_header(path: Path) -> Header | None:
    """Whose file it is, None where it is no SQLite database. OSError where it cannot be read.

    Reads the file itself, since SQLite changes some files by opening them. Not for a file that this process has open:
    closing a second descriptor would drop SQLite's locks on it.
    """
    with path.open("rb") as file:
        start = file.read(100)
    if len(start) < 100 or not start.startswith(MAGIC):
        return None
    version, application_id = struct.unpack_from(">I4xI", start, 60)
    return Header(application_id, version, start[16:24])


def connect(path: Path) -> sqlite3.Connection:
    """A connection that has the file for itself. sqlite3.Error where it cannot be had.

    With exclusive locking there is no shared-memory file, which on a full disk could end the process with SIGBUS. A
    connection that is merely dropped does not move the log's pages into the database: one that a forked child inherits
    must not write to its parent's file.
    """
    uri = f"file:{quote(bytes(path.absolute()))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0.1, isolation_level=None, check_same_thread=False)
    # Damaged text is for the checksum to find.
    connection.text_factory = lambda text: text.decode(errors="replace")
    try:
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "synchronous = NORMAL",
            "trusted_schema = OFF",
            "temp_store = MEMORY",
            "secure_delete = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def build(path: Path, rows: Iterable[Row] = ()) -> None:
    """Make a new file of mode 0600 with these rows, complete on disk on return. OSError, sqlite3.Error.

    To be called with a temporary name: what has a spool's own name is always whole.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask; SQLite gives the log beside it the same mode
        with closing(connect(path)) as connection:
            for pragma in (
                f"page_size = {PAGE}",
                "auto_vacuum = INCREMENTAL",
                "journal_mode = OFF",
                f"application_id = {APPLICATION_ID}",
                f"user_version = {VERSION}",
            ):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN")
            connection.execute(SCHEMA)
            connection.execute(ACCOUNT_SCHEMA)
            connection.executemany(INSERT, rows)
            connection.execute("COMMIT")
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, False)
            connection.execute("PRAGMA journal_mode = WAL")
        path.with_name(path.name + "-journal").unlink(missing_ok=True)  # with exclusive locking, SQLite leaves it there
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
