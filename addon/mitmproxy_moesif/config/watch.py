"""Notices off the request path that a file has changed: keys and configuration are replaced without a word to the
proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from mitmproxy_moesif.log import RateLimitedLog, describe

WATCH_SECONDS = 1.0
"""Between two looks at a file."""

type Stamp = tuple[int, int, int] | None
"""What differs when a file is written again or replaced, or a link to it leads elsewhere; None: there is no file."""


def stamp_of(path: str | Path | None) -> Stamp:
    try:
        status = Path(path).expanduser().stat() if path is not None else None
    except (OSError, ValueError, RuntimeError):  # no file; a zero byte; a home that is nobody's
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None


class FileWatch:
    """Asked from time to time whether a file has changed. `seen` is what was there when it was read; None: it is to be
    read anyway.

    A file counts as changed when two looks in a row find it the same: read while it is being written, a list of several
    keys would be one of fewer.
    """

    def __init__(self, path: str | Path | None, seen: Stamp) -> None:
        self._path = path
        self._last = seen
        self.seen = seen

    def changed(self) -> bool:
        """Look; True once for each change, which is `seen` from then on."""
        now, self._last = stamp_of(self._path), self._last
        at_rest, self._last = now == self._last, now
        if not at_rest or now == self.seen:
            return False
        self.seen = now
        return True


class Periodic:
    """Calls `act` every so many seconds in a thread of its own, from `start` until `stop`. An error ends no thread."""

    def __init__(self, name: str, seconds: float, act: Callable[[], None]) -> None:
        self._seconds = seconds
        self._act = act
        self._limited = RateLimitedLog()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self._act()
            except Exception as error:  # noqa: BLE001 - the thread never dies silently, and never of one error
                self._limited.error("act", "moesif: unexpected in %s: %s", self._thread.name, describe(error))
