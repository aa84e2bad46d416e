"""Tells a living process's spool from a dead one's, by a lock that the kernel releases when the process ends.

Process ids are no help: in a container each start has the same one. The lock is on a file beside the spool. It is taken
before the spool's database exists and released after it is closed: whoever gets the lock may use the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from weakref import WeakSet


def identity(path: Path) -> tuple[int, int] | None:
    """The device and inode of a path; None if it does not exist or is not accessible."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileLock:
    """An flock, held from `acquire` to `release` or the end of the process, whichever comes first.

    A child made by exec does not inherit it (close-on-exec), and one made by fork closes its copy at once, so that the
    lock never outlives the process that took it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        _all.add(self)

    @classmethod
    def acquire(cls, path: Path) -> FileLock | None:
        """Take the lock, creating its file if needed; None if another process holds it. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
            # The last holder may have removed the file between our open and our lock: then the lock protects nothing.
            if identity(path) == (status.st_dev, status.st_ino):
                return cls(path, descriptor)
        except BlockingIOError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether a process holds this lock; False if its file is gone or cannot be opened."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def in_place(self) -> bool:
        """Whether the path still names the locked file; if not, others may think that this process is dead."""
        status = os.fstat(self._descriptor)
        return identity(self.path) == (status.st_dev, status.st_ino)

    def release(self) -> None:
        """Remove the file, then release the lock. In the other order, the file could already be another process's."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):  # a leftover lock file does no harm
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


os.register_at_fork(after_in_child=_abandon_all)  # only once: it cannot be unregistered
