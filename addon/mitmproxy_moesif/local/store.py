"""The events that the local collector received: SQLite, newest first, limited in number and size.

As in Moesif, an event with a known `transaction_id` is a duplicate: it is counted but not stored again. Once an event
has been deleted to make room, its id is unknown.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mitmproxy_moesif.config.text import reason_of
from mitmproxy_moesif.local.intake import ReceivedEvent

KEEP_EVENTS = 10_000
KEEP_BYTES = 512_000_000
MAX_NUMBER = 2**63 - 1
_APPLICATION_ID = 0x6D6F6573  # "moes": distinguishes our files from other programs' databases
_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    transaction_id TEXT UNIQUE,
    verb TEXT NOT NULL,
    uri TEXT NOT NULL,
    status INTEGER,
    user_id TEXT,
    company_id TEXT,
    size INTEGER NOT NULL,
    raw TEXT NOT NULL
);
"""
_FIELDS = "transaction_id, verb, uri, status, user_id, company_id, size, raw"
_INSERT = f"INSERT OR IGNORE INTO event ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants


class StoreError(OSError):
    """A database cannot be used; the text is one line with the file's name."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter for events; all given values must match. `uri` is a part of the URI, the others are whole values."""

    verb: str | None = None
    status: int | None = None
    user_id: str | None = None
    company_id: str | None = None
    uri: str | None = None

    def where(self) -> tuple[str, list[str | int]]:
        """The SQL condition and its values."""
        parts, values = ["1"], list[str | int]()
        for name in ("verb", "status", "user_id", "company_id"):
            if (value := getattr(self, name)) is not None:
                parts.append(f"{name} = ?")
                values.append(value)
        if self.uri is not None:
            parts.append("instr(uri, ?) > 0")
            values.append(self.uri)
        return " AND ".join(parts), values


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`number` increases with each event received; `raw` is the event's original JSON."""

    number: int
    raw: str


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """`received` and `duplicates` since the store was opened, and the number currently `kept`."""

    received: int
    duplicates: int
    kept: int


class Database:
    """A database file, accessible only by its owner (it has personal data), or in memory for None.

    Methods may be called from any thread. Raises `StoreError` if a file is not one of our stores.
    """

    def __init__(self, path: Path | None, schema: str, content: str) -> None:
        self._lock = threading.Lock()
        try:
            self._db = _opened(path, schema)
            self._measure()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: cannot be used as the store of {content}: {reason_of(error)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _measure(self) -> None:
        """Count the stored rows and bytes, if needed."""

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()


class EventStore(Database):
    """Stores the newest `keep_events` events, limited to `keep_bytes` of JSON, but always the newest one."""

    def __init__(self, path: Path | None = None, keep_events: int = KEEP_EVENTS, keep_bytes: int = KEEP_BYTES) -> None:
        self._keep_events = keep_events
        self._keep_bytes = keep_bytes
        self._kept = self._bytes = self._received = self._duplicates = 0
        self._version = 0
        super().__init__(path, _SCHEMA, "received events")

    def add(self, events: Sequence[ReceivedEvent]) -> int:
        """Store all of `events` and return how many were new. Raises `sqlite3.Error`; then none is stored."""
        with self._lock:
            try:
                with self._db:
                    self._begin()
                    new = sum(map(self._insert, events))
                    self._push_out()
            except BaseException:
                self._measure()
                raise
            self._received += len(events)
            self._duplicates += len(events) - new
        return new

    def newest(self, limit: int, which: Filter | None = None, before: int | None = None) -> list[StoredEvent]:
        """The newest `limit` events that match, newest first; only numbers below `before` if given."""
        where, values = (which or Filter()).where()
        if before is not None:
            where, values = f"{where} AND number < ?", [*values, before]
        query = f"SELECT number, raw FROM event WHERE {where} ORDER BY number DESC LIMIT ?"  # noqa: S608 - ours
        return [StoredEvent(*row) for row in self._rows(query, *values, limit)]

    def after(self, number: int, limit: int) -> list[StoredEvent]:
        """The oldest `limit` events with a higher number, oldest first."""
        query = "SELECT number, raw FROM event WHERE number > ? ORDER BY number LIMIT ?"
        return [StoredEvent(*row) for row in self._rows(query, number, limit)]

    def get(self, number: int) -> StoredEvent | None:
        rows = self._rows("SELECT number, raw FROM event WHERE number = ?", number)
        return StoredEvent(*rows[0]) if rows else None

    def oldest(self) -> int:
        """The number of the oldest stored event; `MAX_NUMBER` if there are none."""
        [[number]] = self._rows(f"SELECT coalesce(min(number), {MAX_NUMBER}) FROM event")  # noqa: S608 - ours
        return int(number)

    def find(self, transaction_id: str) -> str | None:
        """The original JSON of an event; None if it is not stored."""
        rows = self._rows("SELECT raw FROM event WHERE transaction_id = ?", transaction_id)
        return str(rows[0][0]) if rows else None

    def clear(self) -> int:
        """Delete all events and free their disk space. Returns how many there were."""
        with self._lock:
            with self._db:
                self._begin()
                self._db.execute("DELETE FROM event")
            gone, self._kept, self._bytes = self._kept, 0, 0
            self._db.execute("VACUUM")
        return gone

    def counts(self) -> StoreCounts:
        with self._lock:
            self._look()
            return StoreCounts(received=self._received, duplicates=self._duplicates, kept=self._kept)

    def _insert(self, event: ReceivedEvent) -> bool:
        row = (event.transaction_id, event.verb, event.uri, event.status, event.user_id, event.company_id)
        is_new = self._db.execute(_INSERT, (*row, event.size, event.raw)).rowcount > 0
        self._kept += is_new
        self._bytes += is_new * event.size
        return is_new

    def _push_out(self) -> None:
        while self._kept > 1 and (self._kept > self._keep_events or self._bytes > self._keep_bytes):
            number, size = self._db.execute("SELECT number, size FROM event ORDER BY number LIMIT 1").fetchone()
            self._db.execute("DELETE FROM event WHERE number = ?", [number])
            self._kept -= 1
            self._bytes -= size

    def _begin(self) -> None:
        """Lock the database for writing."""
        self._db.execute("BEGIN IMMEDIATE")
        self._look()

    def _look(self) -> None:
        """Count again if another collector has changed this file."""
        [version] = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._measure()

    def _measure(self) -> None:
        self._kept, self._bytes = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM event").fetchone()


def _opened(path: Path | None, schema: str) -> sqlite3.Connection:
    """Open a database. Raises `sqlite3.Error`, also for another program's file, or `OSError`."""
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False)
    try:
        _prepare(db, schema)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, schema: str) -> None:
    mark = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and mark != _APPLICATION_ID:
        raise sqlite3.DatabaseError("it is another program's database")
    # Not critical data: the last second before a power failure may be lost.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(f"PRAGMA application_id = {_APPLICATION_ID};{schema}")
