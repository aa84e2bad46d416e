"""The durable spool: events on disk between building and sending.

One SQLite file for each process, named `spool-<pid>-<8 hex digits>.sqlite`, with a lock file beside it. What `append`
stored survives the process, even after kill -9: it is at least in the kernel's page cache. A power failure may lose the
last moments, but does not damage the file. `directory` takes over the files of dead processes.

Limits: `max_bytes` limits the disk space, log included; above it `append` raises SpoolFull and stores nothing. Every
disk problem raises a SpoolError at once, without waiting; the spool is usable again as soon as the disk is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from mitmproxy_moesif.config.text import reason_of
from mitmproxy_moesif.delivery.ledger import Account
from mitmproxy_moesif.delivery.spool import format as spool_format
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.format import COLUMNS, INSERT, PAGE, Row
from mitmproxy_moesif.delivery.spool.lock import FileLock, identity

LOCK = ".lock"  # a suffix of the file's name; SQLite itself adds "-wal"
NEW = ".new"
WAL = "-wal"

LOG_BYTES = 16 << 20  # at this size the log's pages move into the database, and the log starts over
SPARE_BYTES = 1 << 20  # free space to keep: giving it back costs a sync, and the next events need it again
STEP_PAGES = 256  # given back in one hold of the lock: about 2 ms

SQLITE_SUFFIXES = (WAL, "-shm", "-journal")
# Result codes for damaged content: primary ones (a missing table is a plain SQLITE_ERROR) ...
DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_ERROR})
# ... and extended ones, for the disk's bad sectors.
UNREADABLE_CODES = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})

LISTING = """SELECT key, destination, created, event_count, event_bytes FROM chunks
             WHERE key > ? ORDER BY key LIMIT ?"""
UPDATE = f"UPDATE chunks SET ({COLUMNS}) = (?, ?, ?, ?, ?, ?, ?) WHERE key = ? AND event_count > ?"  # noqa: S608 - a constant
SELECT = f"SELECT {COLUMNS} FROM chunks WHERE key = ?"  # noqa: S608 - a constant

NONE: Mapping[int, Chunk] = {}


class SpoolError(Exception):
    """A disk problem: full, read-only, vanished, damaged. The text is one line for the operator."""


class SpoolFull(SpoolError):  # noqa: N818 - a state and not a fault
    """Storing this would exceed the file's size limit."""


class SpoolDamaged(SpoolError):  # noqa: N818
    """A row or the file itself is damaged."""


class SpoolVanished(SpoolError):  # noqa: N818
    """The file was removed or replaced while it was open. Its events can still be read, but no more be stored."""


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """A stored chunk without its events: `created` in wall-clock seconds, `bytes` of encoded JSON."""

    key: int
    destination: str
    created: float
    count: int
    bytes: int


class SpoolFile:
    """One open file. Methods may be called from any thread; each holds the lock for about one transaction.

    In a forked child every method raises SpoolError, and `close` does nothing: the file belongs to the parent.
    """

    def __init__(self, path: Path, lock: FileLock, max_bytes: int) -> None:
        """Open a file whose lock is held. Raises SpoolError; then the caller must still release the lock."""
        self.path = path
        self.max_bytes = max_bytes  # may be changed at any time
        self.unreadable_events = 0  # events lost, if this file replaces a damaged one
        self._file_lock = lock
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._unremoved: set[int] = set()  # removed for every reader, but not yet on disk
        self._unshrunk: dict[int, Row] = {}  # what is left of partly removed chunks, not yet on disk
        self._log_pages = 0
        with _explained(f"open the spool {path}"):
            self._connection: sqlite3.Connection | None = spool_format.connect(path)
            try:
                self._prepare(self._connection)
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    def create(cls, folder: Path, max_bytes: int, rows: Iterable[Row] = ()) -> SpoolFile:
        """Create a spool for this process with these rows; creates the folder if needed.

        The rows may exceed `max_bytes`. Raises SpoolError, and then leaves no file behind.
        """
        with _explained(f"create a spool in {folder}"):
            _make_private(folder)
            path, lock = _claim(folder)
            try:
                new = sibling(path, NEW)
                spool_format.build(new, rows)
                new.rename(path)
                return cls(path, lock, max_bytes)
            except BaseException:
                remove_files(path)
                lock.release()
                raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        self._bound_log(connection)
        self._files = {path: identity(path) for path in (self.path, sibling(self.path, WAL))}

    def _bound_log(self, connection: sqlite3.Connection) -> None:
        """Adjust the log's size limit to `max_bytes`."""
        pages = self._pages_for(LOG_BYTES)
        if pages == self._log_pages:
            return
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        connection.execute(f"PRAGMA journal_size_limit = {pages * PAGE}")
        if pages < self._log_pages:
            _checkpoint(connection)
        self._log_pages = pages

    def _pages_for(self, size: int) -> int:
        return max(8, min(size, self.max_bytes // 8) // PAGE)

    # -- Storing and reading

    def append(self, chunks: Sequence[Chunk], account: Account | None = None) -> None:
        """Store all chunks and the account, and set the chunks' keys. Raises SpoolError, and then stores nothing."""
        rows = [spool_format.encode(chunk) for chunk in chunks]
        with self._using("write to") as connection:
            self._check_in_place()
            self._bound_log(connection)
            with self._changing(connection, account):
                self._check_room(connection, rows)
                keys = [connection.execute(INSERT, row).lastrowid for row in rows]
        for chunk, key in zip(chunks, keys, strict=True):
            chunk.key = key

    def has_room(self, chunks: Sequence[Chunk]) -> bool:
        """Whether `append` would find room for these chunks. Raises SpoolError."""
        rows = [spool_format.encode(chunk) for chunk in chunks]
        with self._using("write to") as connection, contextlib.suppress(SpoolFull):
            self._check_room(connection, rows)
            return True
        return False

    def load(self, key: int) -> Chunk:
        """Read a chunk. Raises KeyError if it does not exist, SpoolDamaged if it is damaged, SpoolError otherwise."""
        with self._using("read") as connection:
            found = None if key in self._unremoved else connection.execute(SELECT, (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        try:
            return spool_format.decode(Row(*found), key)
        except ValueError as e:
            raise SpoolDamaged(f"cannot read chunk {key} of the spool {self.path}: {e}") from e

    def note(self, account: Account) -> None:
        """Replace the stored account. Raises SpoolError."""
        with self._using("write to") as connection, self._changing(connection, account):
            pass

    def account(self) -> Account | None:
        """The account that its process stored last; None if there is none, or it cannot be read."""
        with contextlib.suppress(SpoolError), self._using("read") as connection:
            found = connection.execute("SELECT content FROM account").fetchone()
            return read_account(found or ())
        return None

    def remove(self, keys: Iterable[int], account: Account | None = None, rests: Mapping[int, Chunk] = NONE) -> None:
        """Remove these chunks, leave only `rests` of others, and store an account; ignores unknown keys.

        Raises SpoolError. Even after an error the chunks stay removed while this process lives; the next write deletes
        them from the disk, and shrinks the others. This is needed because a full disk also refuses deletions, and
        delivered events must not be sent again.
        """
        with self._using("write to") as connection:
            self._unremoved.update(keys)
            self._shrink_later(rests)
            try:
                self._remove_pending(connection, account)
            except sqlite3.OperationalError:
                # Most of the log's pages already have space in the database: moving them there frees space.
                _checkpoint(connection)
                self._remove_pending(connection, account)

    def index(self, after: int = 0, limit: int = -1) -> list[ChunkInfo]:
        """Stored chunks, oldest first, without events: at most `limit` with keys above `after`. Raises SpoolError."""
        with self._using("read") as connection:
            return self._index(connection, after, limit)

    def _index(self, connection: sqlite3.Connection, after: int = 0, limit: int = -1) -> list[ChunkInfo]:
        wanted = limit + len(self._unremoved) if limit >= 0 else -1
        rows = connection.execute(LISTING, (after, wanted)).fetchall()
        found = [ChunkInfo(*row) for row in rows if row[0] not in self._unremoved]
        return found if limit < 0 else found[:limit]

    def is_empty(self) -> bool:
        """Whether no chunk is stored. Raises SpoolError."""
        return not self.index(limit=1)

    # -- Space

    @property
    def disk_bytes(self) -> int:
        """Bytes of the file and its log on disk, free pages included; 0 once they vanished."""
        total = 0
        for path in self._files:
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def shrink(self) -> bool:
        """Return free space to the disk, at most 16 MiB; True if there is more. Raises SpoolError.

        Keeps free pages up to 1 MiB, or up to the size in use: they are soon needed again. Cheap if there are no more.
        """
        return all(self._shrink_step() for _ in range(16))

    def _shrink_step(self) -> bool:
        with self._using("shrink") as connection:
            self._remove_pending(connection)
            spare = self._pages_for(SPARE_BYTES)
            if self.disk_bytes <= spare * PAGE:
                return False
            used, free = _pages(connection)
            if not self._index(connection, limit=1):
                connection.execute("VACUUM")  # with no rows to copy this costs next to nothing, whatever the size
                _checkpoint(connection)
                return False
            surplus = free - max(used, spare)
            if surplus <= 0:
                return False
            connection.execute(f"PRAGMA incremental_vacuum({min(surplus, STEP_PAGES)})").fetchall()
            if surplus <= STEP_PAGES:
                _checkpoint(connection)
            return surplus > STEP_PAGES

    def _check_room(self, connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
        needed = sum((len(row.payload) + len(row.transaction_ids) + 200) // PAGE + 1 for row in rows)
        if not needed:
            return  # an account alone always fits, even if the limit was lowered below what is stored
        used, _ = _pages(connection)
        log = self._log_pages * 9 // 8 + needed  # it is emptied only after the transaction that exceeds its size
        if (used + needed + log) * PAGE > self.max_bytes:
            raise SpoolFull(f"the spool {self.path} is full: {self.max_bytes} bytes are allowed")

    # -- The end

    @property
    def in_place(self) -> bool:
        """Whether its files are still at their paths; if not, its events are lost when this process ends."""
        return all(known is not None and known == identity(path) for path, known in self._files.items())

    def check(self, *, write: bool) -> None:
        """Raise SpoolError if the file cannot be written to. `write`: try it with a commit that changes nothing."""
        with self._using("write to") as connection:
            self._check_in_place()
            if write:
                with _transaction(connection):
                    connection.execute(f"PRAGMA user_version = {spool_format.VERSION}")

    def close(self, *, keep: bool = False) -> None:
        """Close the file and release its lock. Removes it if it is empty; else another process adopts it. Never raises.

        `keep`: do not remove it, so that its account is found. If the spool itself fills the disk, only this returns
        the space once all events were sent and `remove`d.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            with contextlib.suppress(sqlite3.Error):
                self._remove_pending(connection)
            in_place = self.in_place
            with contextlib.suppress(sqlite3.Error):
                if in_place and not keep and not self._index(connection, limit=1):
                    remove_files(self.path)  # even if a full disk did not take the removals
            with contextlib.suppress(sqlite3.Error):
                connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, not in_place)
                connection.close()
            self._file_lock.release()

    # -- Inside

    @contextlib.contextmanager
    def _using(self, purpose: str) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            raise SpoolError(f"cannot {purpose} the spool {self.path}: it belongs to the process that forked this one")
        with self._lock, _explained(f"{purpose} the spool {self.path}"):
            if self._connection is None:
                raise SpoolError(f"cannot {purpose} the spool {self.path}: it is closed")
            yield self._connection

    def _check_in_place(self) -> None:
        if not (self.in_place and self._file_lock.in_place()):
            gone = "its files were removed while it was open, or their folder can no longer be entered"
            raise SpoolVanished(f"cannot write to the spool {self.path}: {gone}")

    def _shrink_later(self, rests: Mapping[int, Chunk]) -> None:
        """Of two rests of one chunk, the smaller is the later one, in whatever order they come."""
        for key, row in ((key, spool_format.encode(rest)) for key, rest in rests.items()):
            if key not in self._unshrunk or row.event_count < self._unshrunk[key].event_count:
                self._unshrunk[key] = row

    def _remove_pending(self, connection: sqlite3.Connection, account: Account | None = None) -> None:
        if self._unremoved or self._unshrunk:
            with self._changing(connection, account):
                pass

    @contextlib.contextmanager
    def _changing(self, connection: sqlite3.Connection, account: Account | None) -> Iterator[None]:
        """A transaction that also removes what is still to be removed, and stores the account, which counts on that."""
        with _transaction(connection):
            connection.executemany(UPDATE, [(*row, key, row.event_count) for key, row in self._unshrunk.items()])
            connection.executemany("DELETE FROM chunks WHERE key = ?", [(key,) for key in self._unremoved])
            yield
            if account is not None:
                connection.execute("REPLACE INTO account VALUES (1, ?)", (orjson.dumps(account),))
        self._unremoved.clear()
        self._unshrunk.clear()


def read_account(contents: Sequence[bytes]) -> Account | None:
    """The account with this content, if any; None if it cannot be read."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        return Account.of(orjson.loads(contents[0])) if contents else None
    return None


def look_into(path: Path) -> tuple[Account | None, int | None]:
    """A dead process's account and number of events; the latter is None if another process has the file.

    (None, 0) if it is gone.
    """
    with contextlib.suppress(OSError, SpoolError), _dead(path) as spool:
        if spool is not None:
            return spool.account(), sum(chunk.count for chunk in spool.index())
    return None, None if path.exists() else 0


def contents_of(path: Path) -> list[ChunkInfo] | None:
    """The chunks in a dead process's file; None if its process lives. Raises OSError, SpoolError."""
    with _dead(path) as spool:
        return spool.index() if spool is not None else None


@contextlib.contextmanager
def _dead(path: Path) -> Iterator[SpoolFile | None]:
    """Open a file to read it, without changing it; None if it is gone, or a process uses it."""
    lock = FileLock.acquire(sibling(path, LOCK)) if path.exists() else None
    if lock is None:
        yield None
        return
    try:
        spool = SpoolFile(path, lock, sys.maxsize)
    except BaseException:
        lock.release()
        raise
    try:
        yield spool
    finally:
        spool.close(keep=True)


def sibling(path: Path, suffix: str) -> Path:
    """The file beside a spool whose name is the spool's plus `suffix`."""
    return path.with_name(path.name + suffix)


def remove_files(path: Path) -> None:
    """Remove a spool's files, except the lock; ignores files that are missing or cannot be removed."""
    for suffix in ("", *SQLITE_SUFFIXES, NEW, *(NEW + suffix for suffix in SQLITE_SUFFIXES)):
        with contextlib.suppress(OSError):
            sibling(path, suffix).unlink()


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means damaged content, not a problem of the disk or another process that uses the file."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
    return code & 0xFF in DAMAGE_CODES or code in UNREADABLE_CODES


def _make_private(folder: Path) -> None:
    for missing in [parent for parent in (*reversed(folder.parents), folder) if not parent.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)


def _claim(folder: Path) -> tuple[Path, FileLock]:
    while True:
        path = folder / f"spool-{os.getpid()}-{secrets.token_hex(4)}.sqlite"
        lock = FileLock.acquire(sibling(path, LOCK))
        if lock is not None:  # else another process locked it first, as if its owner were dead: use another name
            return path, lock


@contextlib.contextmanager
def _explained(purpose: str) -> Iterator[None]:
    """Turn errors of SQLite and the file system into SpoolError with the text "cannot `purpose`: ..."."""
    try:
        yield
    except sqlite3.Error as e:
        kind = SpoolDamaged if is_damage(e) else SpoolError
        raise kind(f"cannot {purpose}: {e}") from e
    except UnicodeDecodeError as e:  # raised for SQLite's message, which quotes the damaged data
        raise SpoolDamaged(f"cannot {purpose}: its schema is malformed") from e
    except OSError as e:
        raise SpoolError(f"cannot {purpose}: {reason_of(e)}") from e


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    if connection.in_transaction:  # one that could not be rolled back when its disk failed
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many pages are in use and how many are free."""
    count: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return count - free, free


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Move the log's pages into the database and cut the log to nothing."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
