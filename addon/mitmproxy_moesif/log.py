"""The addon's logger, shown in mitmproxy's console; it never carries a body, an application id or a masked value."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("moesif")


class RateLimitedLog:
    """Logs each kind of message once in `interval` seconds, so that a fault on every request does not flood."""

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
    """Its text is ours, and may be logged."""


def describe(error: BaseException) -> str:
    """The kind of an error and where it happened. Not its text, which may quote what it choked on."""
    if isinstance(error, QuotesNothingError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {where}" if where else type(error).__name__
