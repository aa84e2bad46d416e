"""Detects, off the request path, that a file has changed: keys and configuration files are replaced without notice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from mitmproxy_moesif.log import RateLimitedLog, describe

WATCH_SECONDS = 1.0
"""Seconds between two checks of a file."""

type Stamp = tuple[int, int, int] | None
"""Changes when a file is rewritten or replaced, or a link points to another one; None: there is no file."""


def stamp_of(path: str | Path | None) -> Stamp:
    try:
        status = Path(path).expanduser().stat() if path is not None else None
    except (OSError, ValueError, RuntimeError):  # no file; a zero byte; the home of an unknown user
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status is not None else None


class FileWatch:
    """Polls whether a file has changed. `seen` is its stamp when it was read; None: it must be read anyway.

    A file counts as changed only after two equal checks in a row: if it were read while it is being written, keys at
    the end of a list would be missing.
    """

    def __init__(self, path: str | Path | None, seen: Stamp) -> None:
        self._path = path
        self._last = seen
        self.seen = seen

    def changed(self) -> bool:
        """Check the file; True once for each change, whose stamp becomes `seen`."""
        now, self._last = stamp_of(self._path), self._last
        at_rest, self._last = now == self._last, now
        if not at_rest or now == self.seen:
            return False
        self.seen = now
        return True


class Periodic:
    """Calls `act` every `seconds` in its own thread, from `start` until `stop`. Errors are logged, and it goes on."""

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
