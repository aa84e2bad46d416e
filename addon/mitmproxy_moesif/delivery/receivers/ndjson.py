"""Batches to a file: one event a line (NDJSON)."""

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
    """Why nothing can be appended to a file, in one line; None where that works. Pipes and devices are not tried."""
    try:
        if not Path(path).exists() or Path(path).is_file():
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        elif Path(path).is_dir():
            return f"cannot write {path}: Is a directory"
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return None


class FileReceiver:
    """Appends to a file that only its owner reads; a batch is written in one call, so lines stay whole.

    Several connections, workers and proxies may write to one file: each has it for itself while it writes.
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
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # a terminal or a pipe takes what it has room for, and waits
            while data:
                data = data[os.write(handle, data) :]
            return
        with suppress(OSError):  # where files have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed
        start = os.fstat(handle).st_size
        if self._ends_within_a_line(start):
            data = b"\n" + data
        written = os.write(handle, data)
        if written < len(data):
            os.ftruncate(handle, start)  # a full disk: no half line stays behind
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _ends_within_a_line(self, size: int) -> bool:
        """Where who wrote last was killed."""
        try:
            with Path(self._path).open("rb") as file:
                file.seek(max(0, size - 1))
                return file.read(1) not in {b"", b"\n"}
        except OSError:  # it may be written only
            return False

    def close(self) -> None:
        """Nothing is held between two batches, so that the file may be rotated away."""


class BesideReceiver:
    """The first decides; what it accepted is written to the file as well."""

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
