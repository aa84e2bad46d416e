"""The addon's logger, shown in mitmproxy's console. It never logs a body, an application id or a masked value."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("moesif")


class RateLimitedLog:
    """Logs each kind of message at most once per `interval` seconds, so that a fault on every request cannot flood."""

    def __init__(self, interval: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._last: dict[str, float] = {}

    def error(self, kind: str, message: str, *args: object) -> None:
        self._log(logging.ERROR, kind, message, *args)

    def warning(self, kind: str, message: str, *args: object) -> None:
        self._log(logging.WARNING, kind, message, *args)

    def _log(self, level: int, kind: str, message: str, *args: object) -> None:
        now = self._clock()
        if now - self._last.get(kind, -self._interval) >= self._interval:
            self._last[kind] = now
            log.log(level, message, *args)


class QuotesNothingError(Exception):
    """An error whose text is our own, so that it is safe to log."""


def describe(error: BaseException) -> str:
    """The type of an error and where it was raised. Its text is left out, because it may quote the input."""
    if isinstance(error, QuotesNothingError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {where}" if where else type(error).__name__
