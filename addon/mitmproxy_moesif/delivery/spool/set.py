"""The files that a store has open: this process's spool, which is written to, and others, which are only emptied.

Others are what ended processes left, and a spool of this process that was lost: removed from its folder, or damaged.
Trouble with the disk is told here, once, and again when it is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mitmproxy_moesif.delivery.ledger import Account
from mitmproxy_moesif.delivery.spool.directory import SpoolDirectory
from mitmproxy_moesif.delivery.spool.file import SpoolDamaged, SpoolError, SpoolFile, SpoolVanished
from mitmproxy_moesif.log import RateLimitedLog, log


class SpoolSet:
    """Where there is no folder there are none. `trouble` is what is wrong with the disk, in one line.

    `account` tells what this process has done so far; its own spool keeps it.
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
        self._lost = False  # the current one takes nothing more
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
        """Those whose rows end with this process."""
        return [spool for spool in self.all if not spool.in_place]

    def left_behind(self) -> Iterator[tuple[str, SpoolFile]]:
        """What ended processes left, with the name it had; the caller `add`s each, or closes it."""
        return iter(()) if self._left_behind is None else self._left_behind.adopt()

    def add(self, spool: SpoolFile) -> bool:
        """False after `close`: it is for another to take over."""
        with self._lock:
            if not self._closed:
                self._others.append(spool)
            return not self._closed

    def writable(self) -> SpoolFile | None:
        """A spool that takes chunks: this process's, or a new one where that is lost. None where that does not work."""
        self._try_out()
        if self.folder is not None and not self._closed and (self.current is None or self._lost):
            self._create(self.folder)
        return None if self._lost else self.current

    def _try_out(self) -> None:
        """Whether the spool is still in its place; and, where nothing was stored since it failed, whether it works."""
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
        """The one that was lost stays open for as long as it holds something."""
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

    def remove(self, spool: SpoolFile, keys: Sequence[int]) -> None:
        """Where the disk does not take it, the rows are gone for this process all the same."""
        try:
            spool.remove(keys, self._account() if spool is self.current else None)
        except SpoolError as error:
            self.tell(error, spool)

    def note(self) -> None:
        """Keep the account in this process's spool, where it has one."""
        spool = self.current
        try:
            if spool is not None:
                spool.note(self._account())
        except SpoolError as error:
            self.tell(error, spool)

    @property
    def own_file(self) -> str | None:
        """The name of this process's spool."""
        current = self.current
        return current.path.name if current is not None else None

    def take_drained(self) -> list[SpoolFile]:
        """The others that hold nothing any more; the caller's to close."""
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
        """From now on; may be called at any time."""
        if max_bytes != self.max_bytes:
            self.max_bytes = max_bytes
            self._bound_current()

    def _bound_current(self) -> None:
        """What other processes left counts against the bound; a quarter of it is always for what is new."""
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
        """Trouble with writing; `spool` is None where none could be made. Only that of the current one is `trouble`."""
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
        """Trouble that keeps nothing new from the disk."""
        if spool is self.current and isinstance(error, SpoolDamaged):
            self._lost = True
        if not self._closed:  # else what cannot be removed any more, the next process sends again
            self._limited.error(spool.path.name, "moesif: %s; it is tried again", error)

    def works(self) -> None:
        """Something was stored."""
        if self.trouble is not None:
            self.trouble = None
            log.info("moesif: the spool works again; events go to disk")

    def close(self, *, keep: bool) -> None:
        """What is in the files is for the next process; `keep`: this process's own also if it is empty."""
        self.note()
        with self._lock:
            spools = [*self._others, *([self.current] if self.current is not None else [])]
            current, self._others, self.current, self._closed = self.current, [], None, True
        for spool in spools:
            spool.close(keep=keep and spool is current)
