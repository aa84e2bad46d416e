"""A command's standard input, output and error, made usable in whatever state they were inherited.

A closed one is opened on /dev/null, so that no file or connection gets its number. Output that nobody reads any more
(`| head -1`) is discarded, and the command continues. Text that cannot be encoded, such as a file's name that is not
UTF-8, is escaped.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

INPUT, OUTPUT, ERROR = range(3)


def with_streams(command: Callable[[], int]) -> int:
    """Run a command; returns its exit code. If standard output cannot be written, raises `SystemExit(1)`, with one line
    on standard error."""
    _open_closed()
    output = _Stream(OUTPUT)
    sys.stdout = _text(output, sys.stdout, sys.__stdout__)
    sys.stderr = _text(_Stream(ERROR), sys.stderr, sys.__stderr__)
    try:
        return command()
    finally:
        sys.stdout.flush()
        if output.trouble is not None:
            sys.stderr.write(f"moesif: standard output cannot be written: {output.trouble}\n")
            sys.exit(1)


def _open_closed() -> None:
    for number in (INPUT, OUTPUT, ERROR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            os.set_inheritable(number, True)


class _Stream(io.FileIO):
    """Never raises: a failed write must not end the command."""

    trouble: str | None = None

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.trouble = error.strerror
            self._throw_away()
            return memoryview(data).nbytes

    def _throw_away(self) -> None:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _text(stream: _Stream, before: TextIO | None, at_start: TextIO | None) -> TextIO:
    """A text stream with Python's encoding and buffering, or line by line with `python -u`. A stream that was replaced
    by somebody else is kept."""
    if before is not None and before is not at_start:
        return before
    ours = io.TextIOWrapper(io.BufferedWriter(stream))
    if isinstance(before, io.TextIOWrapper):
        ours.reconfigure(encoding=before.encoding, line_buffering=before.line_buffering or before.write_through)
    ours.reconfigure(errors="backslashreplace")
    return ours
