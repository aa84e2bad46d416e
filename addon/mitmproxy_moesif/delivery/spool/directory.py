"""The folder with the spools of all processes: takes over the files of dead ones.

A file is fully verified before it is used: its structure, its log and each row's checksum. A damaged file is renamed,
and its readable rows are copied to a new file. Nothing here prevents the addon from starting: a file that cannot be
taken over now is logged once, left in place and tried again later. Files not named like a spool's are not touched.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from mitmproxy_moesif.delivery.spool import format as spool_format
from mitmproxy_moesif.delivery.spool import recovery
from mitmproxy_moesif.delivery.spool.file import (
    LOCK,
    NEW,
    SQLITE_SUFFIXES,
    WAL,
    SpoolError,
    SpoolFile,
    is_damage,
    read_account,
    remove_files,
    sibling,
)
from mitmproxy_moesif.delivery.spool.format import APPLICATION_ID, COLUMNS, VERSION, Header, Row
from mitmproxy_moesif.delivery.spool.lock import FileLock
from mitmproxy_moesif.log import log

NAME = re.compile(r"(spool-.*?\.sqlite)(?:\.lock|\.new|-wal)?")
RETRY_SECONDS = 60.0


class NotOurs(Exception):  # noqa: N818 - no fault of anybody
    """An intact file that this release must not touch."""


class SpoolDirectory:
    """Remembers what it logged, so that `adopt` can be called every few seconds. For one thread at a time."""

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._clock = clock
        self._retry_at: dict[str, float] = {}

    def adopt(self) -> Iterator[tuple[str, SpoolFile]]:
        """Take over the files of dead processes, one at a time, each with the name it was found under. Never raises.

        The caller sends their events and closes them. Cheap if all files belong to living processes; a dead one's file
        is read once in full (about half a second for a gigabyte in the page cache).
        """
        for name in self._candidates():
            try:
                spool = self._adopt(self.path / name)
            except NotOurs as e:
                self._leave(name, math.inf, f"{e}; it is left alone")
            except (OSError, sqlite3.Error, SpoolError) as e:
                self._leave(name, self._clock() + RETRY_SECONDS, f"cannot be taken over now: {e}")
            else:
                if spool is not None:
                    yield name, spool

    def _candidates(self) -> list[str]:
        try:
            with os.scandir(self.path) as entries:
                files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError:
            return []  # no folder, nothing to take over; if it cannot be used, `create` will report that
        names = {match[1] for name in files if (match := NAME.fullmatch(name))}
        return sorted(name for name in names if self._retry_at.get(name, -math.inf) <= self._clock())

    def _leave(self, name: str, until: float, reason: str) -> None:
        if name not in self._retry_at:
            log.warning("moesif: the spool file %s %s", self.path / name, reason)
        self._retry_at[name] = until

    def _adopt(self, path: Path) -> SpoolFile | None:
        lock = FileLock.acquire(sibling(path, LOCK))
        if lock is None:
            return None  # its process lives
        spool = None
        try:
            spool = self._take_over(path, lock)
        finally:
            if spool is None or spool.path != path:
                lock.release()
        return spool

    def _take_over(self, path: Path, lock: FileLock) -> SpoolFile | None:
        for suffix in ("", *SQLITE_SUFFIXES):  # left if the process died before the file got its final name
            sibling(path, NEW + suffix).unlink(missing_ok=True)
        if not any(sibling(path, suffix).exists() for suffix in ("", WAL)):
            return None
        header = spool_format.read_header(path) if path.exists() else None
        if header is not None and header.application_id == APPLICATION_ID and header.version > VERSION:
            raise NotOurs("was written by a later release")
        problem = find_problem(path, header)
        return SpoolFile(path, lock, self.max_bytes) if problem is None else self._rescue(path, header, problem)

    def _rescue(self, path: Path, header: Header | None, problem: str) -> SpoolFile | None:
        """A new file with the readable rows and the account; None if nothing was in the file."""
        unreadable, accounts = list[int](), list[bytes]()
        rows = recovery.salvage(path, sibling(path, WAL), sibling(path, NEW), unreadable, accounts)
        spool = SpoolFile.create(self.path, self.max_bytes, rows)
        try:
            saved = spool.index()
            if header is not None and header.application_id != APPLICATION_ID and not saved:
                raise NotOurs("is another program's database")
            if (account := read_account(accounts)) is not None:
                spool.note(account)
            aside = set_aside(path)
        except BaseException:
            remove_files(spool.path)
            spool.close()
            raise
        log.error(
            "moesif: the spool file %s is damaged (%s). It is set aside as %s; %d of its events can be read and "
            "will be sent, %d or more cannot",
            path,
            problem,
            aside.name,
            sum(row.count for row in saved),
            sum(unreadable),
        )
        spool.unreadable_events = sum(unreadable)
        if not saved and not unreadable and account is None:
            spool.close()
            return None
        return spool


def find_problem(path: Path, header: Header | None) -> str | None:
    """Why a file cannot be trusted, in one line; None if every row is intact.

    Raises OSError or sqlite3.Error if the disk, or another process that uses the file, prevents the check.
    """
    # SQLite must not open such files: if a database lost its content, it deletes the log that still has it.
    if header is None:
        return "it is no SQLite database"
    if header.application_id != APPLICATION_ID:
        return "it is not marked as a spool"
    if header.layout != spool_format.LAYOUT:
        return "its header is malformed"
    last_commit = recovery.read_log(sibling(path, WAL)).last
    try:
        with closing(spool_format.connect(path)) as connection:
            return _find_problem_inside(connection, last_commit)
    except sqlite3.Error as e:
        if not is_damage(e):
            raise
        return str(e)
    except UnicodeDecodeError:  # raised for SQLite's message, which quotes the damaged data
        return "its schema is malformed"


def _find_problem_inside(connection: sqlite3.Connection, last_commit: int) -> str | None:
    tables = connection.execute("SELECT name, tbl_name, sql FROM sqlite_master").fetchall()
    if tables not in (spool_format.TABLES, spool_format.TABLES[:2]):
        return "its schema is malformed"
    # If a row has a damaged page pointer, removing it would free another row's pages: only this check finds that.
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        return " ".join(str(verdict).split())
    damaged = 0
    for found in connection.execute(f"SELECT {COLUMNS} FROM chunks"):  # noqa: S608 - a constant
        try:
            spool_format.decode(Row(*found))
        except ValueError:
            damaged += 1
    if damaged:
        return f"{damaged} chunks do not match their checksum"
    if last_commit and _frames_used(connection) < last_commit:
        return "its write-ahead log is damaged"
    return None


def _frames_used(connection: sqlite3.Connection) -> float:
    """How many frames of the log SQLite found valid; infinite if it cannot say."""
    with contextlib.suppress(sqlite3.OperationalError):  # a full disk: no reason to distrust the log
        _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return float(frames)
    return math.inf


def set_aside(path: Path) -> Path:
    """Rename a damaged file and its log, so that nobody takes it for a spool. Returns the new path; raises OSError."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    aside = sibling(path, f".damaged-{stamp}")
    for suffix in ("", *SQLITE_SUFFIXES):
        with contextlib.suppress(FileNotFoundError):
            sibling(path, suffix).rename(sibling(aside, suffix))
    return aside
