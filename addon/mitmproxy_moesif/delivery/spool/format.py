"""The format of a spool file: an SQLite database with one row for each chunk, and one for its process's account.

Each row has a checksum over its content, because SQLite has none: a flipped bit in a body is found when the row is
read, and never sent. A file contains no secrets: bodies are masked before they are stored, and the destination is a
hash.
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
# The bytes after the magic in the header: page size, log mode for writing and reading, and constants. SQLite does not
# verify them: with one bit flipped, the file can be read but never written to again.
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
# An account is JSON. WITHOUT ROWID, so that `recovery` does not take its page for one with chunks.
ACCOUNT_SCHEMA = "CREATE TABLE account (key INTEGER PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
# The content of `sqlite_master`. AUTOINCREMENT creates the second table; files of older releases lack the third.
TABLES = [
    ("chunks", "chunks", SCHEMA),
    ("sqlite_sequence", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)"),
    ("account", "account", ACCOUNT_SCHEMA),
]
# The payload is the last column, so that a listing never reads its overflow pages.
COLUMNS = "destination, created, event_count, event_bytes, crc, transaction_ids, payload"
INSERT = f"INSERT INTO chunks ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant


class Row(NamedTuple):
    """A chunk as stored: ids joined by commas, events by newlines; `event_bytes` does not count the newlines."""

    destination: str
    created: float
    event_count: int
    event_bytes: int
    crc: int
    transaction_ids: str
    payload: bytes


class Header(NamedTuple):
    """The fields of a database's first page that identify its program and version."""

    application_id: int
    version: int
    layout: bytes


def checksum(destination: str, created: float, transaction_ids: str, payload: bytes) -> int:
    """CRC-32 of a row's content; its count and size follow from the rest."""
    return zlib.crc32(payload, zlib.crc32(f"{destination}|{created!r}|{transaction_ids}".encode()))


def encode(chunk: Chunk) -> Row:
    """The row of a chunk. Raises ValueError if it could not be decoded again, which is an error of the caller."""
    payload = b"\n".join(chunk.events)
    count = len(chunk.events)
    if not count or len(chunk.transaction_ids) != count or any(b"\n" in event for event in chunk.events):
        raise ValueError("a chunk needs one transaction id for each event, and no event may hold a newline")
    ids = ",".join(chunk.transaction_ids)
    created = float(chunk.created)
    crc = checksum(chunk.destination, created, ids, payload)
    return Row(chunk.destination, created, count, len(payload) - count + 1, crc, ids, payload)


def decode(row: Row, key: int | None = None) -> Chunk:
    """The chunk of a row. Raises ValueError if the row is damaged."""
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
    """The header; None if the file is not an SQLite database. Raises OSError if it cannot be read.

    Reads the file directly, since opening it with SQLite changes some files. Not for a file that this process has open:
    closing a second descriptor would drop SQLite's locks on it.
    """
    with path.open("rb") as file:
        start = file.read(100)
    if len(start) < 100 or not start.startswith(MAGIC):
        return None
    version, application_id = struct.unpack_from(">I4xI", start, 60)
    return Header(application_id, version, start[16:24])


def connect(path: Path) -> sqlite3.Connection:
    """A connection with exclusive access to the file. Raises sqlite3.Error.

    With exclusive locking there is no shared-memory file, which on a full disk could kill the process with SIGBUS. A
    connection that is dropped without `close` does not checkpoint the log: one that a forked child inherits must not
    write to its parent's file.
    """
    uri = f"file:{quote(bytes(path.absolute()))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0.1, isolation_level=None, check_same_thread=False)
    # The checksum finds damaged text.
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
    """Create a file of mode 0600 with these rows, synced to disk on return. Raises OSError, sqlite3.Error.

    Call it with a temporary name: a file with a spool's final name must always be complete.
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
        path.with_name(path.name + "-journal").unlink(missing_ok=True)  # with exclusive locking, SQLite leaves it
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
