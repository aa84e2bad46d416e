"""Tells a living process's spool from a dead one's: by a lock that the kernel lets go with the process.

Process numbers say nothing (in a container each start has the same one), a lock does. It is on a file beside the spool,
taken before the spool's database exists and let go after it is closed: whoever gets the lock may have the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from weakref import WeakSet


def identity(path: Path) -> tuple[int, int] | None:
    """The device and inode that a path names, None where it names nothing that can be looked at."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileLock:
    """An flock, held from `acquire` to `release` or the end of the process, whichever comes first.

    A child made by exec does not inherit it (close-on-exec), one made by fork gives its copy back at once, so that the
    lock never outlives the process that took it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _all.add(self)

    @classmethod
    def acquire(cls, path: Path) -> FileLock | None:
        """Take the lock, making its file where there is none; None where another holds it. OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            # Its last holder may have removed the file between our open and our lock: then it guards nothing.
            if identity(path) == (status.st_dev, status.st_ino):
                return cls(path, descriptor)
        except BlockingIOError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def in_place(self) -> bool:
        """Whether the path still names the file that is locked: if not, others may believe us dead."""
        status = os.fstat(self._descriptor)
        return identity(self.path) == (status.st_dev, status.st_ino)

    def release(self) -> None:
        """Remove the file and let go, in this order: the other way round it could be another's by now."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):  # a lock file that stays behind hurts nobody
            if self.in_place():
                self.path.unlink()
        self._abandon()

    def _abandon(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_all: WeakSet[FileLock] = WeakSet()


def _abandon_all() -> None:
    for lock in list(_all):
        lock._abandon()  # noqa: SLF001


os.register_at_fork(after_in_child=_abandon_all)  # once: the interpreter keeps what is registered for good
