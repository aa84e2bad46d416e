"""Writes batches to a file: one event per line (NDJSON)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mitmproxy_moesif.delivery.receivers.base import Outcome, Receiver, Verdict
from mitmproxy_moesif.log import RateLimitedLog


def unwritable(path: str) -> str | None:
    """Why a file cannot be appended to, in one line; None if it can. Does not try pipes and devices."""
    try:
        if not Path(path).exists() or Path(path).is_file():
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        elif Path(path).is_dir():
            return f"cannot write {path}: Is a directory"
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return None


class FileReceiver:
    """Appends to a file that only its owner can read; a batch is written in one call, so lines stay intact.

    Several connections, workers and proxies may write to one file: each locks it while it writes.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def send(self, events: Sequence[bytes]) -> Outcome:
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._write(handle, b"".join(event + b"\n" for event in events))
            finally:
                os.close(handle)
        except OSError as error:
            return Outcome(Verdict.UNAVAILABLE, f"cannot write {self._path}: {error.strerror}")
        return Outcome(Verdict.ACCEPTED)

    def _write(self, handle: int, data: bytes) -> None:
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # a terminal or a pipe may accept only a part, or block
            while data:
                data = data[os.write(handle, data) :]
            return
        with suppress(OSError):  # the file system may not support locks
            fcntl.flock(handle, fcntl.LOCK_EX)  # until the file is closed
        start = os.fstat(handle).st_size
        if self._ends_within_a_line(start):
            data = b"\n" + data
        written = os.write(handle, data)
        if written < len(data):
            os.ftruncate(handle, start)  # the disk is full: leave no partial line behind
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _ends_within_a_line(self, size: int) -> bool:
        """Whether the last line is incomplete, because its writer was killed."""
        try:
            with Path(self._path).open("rb") as file:
                file.seek(max(0, size - 1))
                return file.read(1) not in {b"", b"\n"}
        except OSError:  # the file may be write-only
            return False

    def close(self) -> None:
        """Nothing to close: the file is not kept open between batches, so that it can be rotated."""


class BesideReceiver:
    """The first receiver decides the outcome; accepted events are also written to the file."""

    def __init__(self, first: Receiver, file: FileReceiver) -> None:
        self._first = first
        self._file = file
        self._limited = RateLimitedLog()

    def send(self, events: Sequence[bytes]) -> Outcome:
        outcome = self._first.send(events)
        if outcome.verdict is Verdict.ACCEPTED:
            written = self._file.send(events)
            if written.verdict is not Verdict.ACCEPTED:
                self._limited.error("file", "moesif: %s; events that were sent are missing there", written.reason)
        return outcome

    def close(self) -> None:
        self._first.close()
        self._file.close()
