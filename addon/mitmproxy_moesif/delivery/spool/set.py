"""The files that a store has open: this process's spool, which is written to, and others, which are only drained.

The others are files of ended processes, and a lost spool of this process: removed from its folder, or damaged. Disk
problems are logged here, once when they begin and once when they are over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from mitmproxy_moesif.delivery.ledger import Account
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.directory import SpoolDirectory
from mitmproxy_moesif.delivery.spool.file import NONE, SpoolDamaged, SpoolError, SpoolFile, SpoolVanished
from mitmproxy_moesif.log import RateLimitedLog, log


class SpoolSet:
    """Without a folder there are no files. `trouble` is the disk's current problem, in one line.

    `account` returns this process's counts so far, which its own spool stores.
    """

    def __init__(
        self,
        folder: Path | None,
        max_bytes: int,
        account: Callable[[], Account],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._account = account
        self.current: SpoolFile | None = None
        self.trouble: str | None = None
        self._others: list[SpoolFile] = []
        self._left_behind = SpoolDirectory(folder, max_bytes, clock) if folder is not None else None
        self._limited = RateLimitedLog(clock=clock)
        self._lock = threading.Lock()
        self.accounting = threading.RLock()
        """Held while counts and the rows and the account on disk change together, so that no account is older."""
        self._lost = False  # the current one can no longer be written to
        self._failed_lately = False
        self._closed = False

    @property
    def all(self) -> list[SpoolFile]:
        with self._lock:
            return [*self._others, *([self.current] if self.current is not None else [])]

    @property
    def disk_bytes(self) -> int:
        return sum(spool.disk_bytes for spool in self.all)

    def gone(self) -> list[SpoolFile]:
        """The spools whose files are gone, so that their rows are lost when this process ends."""
        return [spool for spool in self.all if not spool.in_place]

    def left_behind(self) -> Iterator[tuple[str, SpoolFile]]:
        """Spools of ended processes, each with the name it had; the caller must `add` or close each."""
        return iter(()) if self._left_behind is None else self._left_behind.adopt()

    def add(self, spool: SpoolFile, count: Callable[[], None]) -> bool:
        """Add a spool and call `count` for what is in it. False after `close`: another process will take it over.

        Both are one step: if `close` came between them, it would remove an empty file whose account nobody has counted.
        """
        with self._lock:
            if not self._closed:
                self._others.append(spool)
                count()
            return not self._closed

    def writable(self) -> SpoolFile | None:
        """A spool that can be written to: this process's, or a new one if that is lost. None if that fails."""
        self._try_out()
        if self.folder is not None and not self._closed and (self.current is None or self._lost):
            self._create(self.folder)
        return None if self._lost else self.current

    def _try_out(self) -> None:
        """Check that the spool's file is in place; also try to write if nothing was stored since the last failure."""
        spool, quiet, self._failed_lately = self.current, not self._failed_lately, False
        if spool is None or self._lost:
            return
        try:
            spool.check(write=self.trouble is not None and quiet)
        except SpoolError as error:
            self.tell(error, spool)
        else:
            if quiet:
                self.works()

    def _create(self, folder: Path) -> None:
        """Create a new spool. A lost one stays open until it is drained."""
        try:
            spool = SpoolFile.create(folder, self.max_bytes)
        except SpoolError as error:
            self.tell(error, None)
            return
        with self._lock:
            closed = self._closed
            if not closed:
                self._others += [self.current] if self.current is not None else []
                self.current, self._lost = spool, False
        if closed:
            spool.close()
        else:
            self.works()

    def remove(self, spool: SpoolFile, keys: Collection[int], rests: Mapping[int, Chunk] = NONE) -> None:
        """Remove rows, and shrink others. If the disk refuses, this is still so for this process."""
        with self.accounting:
            try:
                spool.remove(keys, self._account() if spool is self.current else None, rests)
            except SpoolError as error:
                self.tell(error, spool)

    def note(self) -> None:
        """Store the account in this process's spool, if it has one."""
        if (spool := self.current) is not None:
            self._note(spool)

    def _note(self, spool: SpoolFile) -> None:
        with self.accounting:
            try:
                spool.note(self._account())
            except SpoolError as error:
                self.tell(error, spool)

    @property
    def own_file(self) -> str | None:
        """The name of this process's spool."""
        current = self.current
        return current.path.name if current is not None else None

    def take_drained(self) -> list[SpoolFile]:
        """Remove the other spools that are empty, and return them; the caller must close them."""
        drained = [spool for spool in self.all if spool is not self.current and self._is_drained(spool)]
        with self._lock:
            self._others = [spool for spool in self._others if spool not in drained]
        return drained

    def _is_drained(self, spool: SpoolFile) -> bool:
        try:
            return spool.is_empty()
        except SpoolError as error:
            self.tell_unreadable(error, spool)
            return False

    def bound(self, max_bytes: int) -> None:
        """Set the size limit from now on; may be called at any time."""
        if max_bytes != self.max_bytes:
            self.max_bytes = max_bytes
            self._bound_current()

    def _bound_current(self) -> None:
        """Files of other processes count towards the limit, but a quarter of it is always left for new events."""
        current = self.current
        if current is not None:
            taken = sum(spool.disk_bytes for spool in self.all if spool is not current)
            current.max_bytes = max(self.max_bytes - taken, self.max_bytes // 4)

    def share_room(self) -> None:
        self._bound_current()
        for spool in self.all:
            try:
                spool.shrink()
            except SpoolError as error:
                self.tell(error, spool)

    def tell(self, error: SpoolError, spool: SpoolFile | None) -> None:
        """Report a write error; `spool` is None if none could be created. Only the current spool's sets `trouble`."""
        if spool is not None and spool is not self.current:
            self.tell_unreadable(error, spool)
            return
        if self._closed:
            return
        if isinstance(error, SpoolVanished | SpoolDamaged):
            self._lost = True
        self._failed_lately = True
        if self.trouble is None:
            log.error("moesif: %s; events stay in memory until the disk works again", error)
        self.trouble = str(error)

    def tell_unreadable(self, error: SpoolError, spool: SpoolFile) -> None:
        """Report an error that does not prevent new events from being stored."""
        if spool is self.current and isinstance(error, SpoolDamaged):
            self._lost = True
        if not self._closed:  # after `close`, the next process sends again what could not be removed
            self._limited.error(spool.path.name, "moesif: %s; it is tried again", error)

    def works(self) -> None:
        """Call this after something was stored."""
        if self.trouble is not None:
            self.trouble = None
            log.info("moesif: the spool works again; events go to disk")

    def close(self, *, keep: bool) -> None:
        """Close all files, for the next process to take over. `keep`: keep this process's own even if it is empty."""
        with self._lock:
            others, current = self._others, self.current
            self._others, self.current, self._closed = [], None, True
        if current is not None:
            self._note(current)
            current.close(keep=keep)
        for spool in others:
            spool.close()
