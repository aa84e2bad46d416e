"""Notices that the file of keys is another one, off the request path: keys are rotated without a word to the proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

EVERY = 1.0
"""Seconds between two looks."""

type Stamp = tuple[int, int, int] | None
"""What differs when a file is written again or replaced, or a link to it leads elsewhere; None: there is no file."""


def stamp_of(path: str | None) -> Stamp:
    try:
        status = Path(path).expanduser().stat() if path is not None else None
    except (OSError, ValueError, RuntimeError):  # no file; a zero byte; a home that is nobody's
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None


class KeyFileWatch:
    """Calls `changed` from a thread of its own, from `start` until `stop`. `seen` is what was there when it was read.

    A file counts as changed when two looks in a row find it the same: read while it is being written, a file of several
    keys would be one of fewer.
    """

    def __init__(self, path: str, seen: Stamp, changed: Callable[[Stamp], None]) -> None:
        self._path = path
        self._seen = seen
        self._last = seen
        self._changed = changed
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="moesif-jwt-keys", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(EVERY):
            self.look()

    def look(self) -> None:
        now = stamp_of(self._path)
        if now == self._last and now != self._seen:
            self._seen = now
            self._changed(now)
        self._last = now
