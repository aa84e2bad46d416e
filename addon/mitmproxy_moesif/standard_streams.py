"""Standard input, output and error of a command, whatever who started it has made of them.

One that is closed is opened on /dev/null: no file, and no connection, shall get its number. What nobody reads any more
(`| head -1`) is thrown away, and the command goes on. Text that the encoding has no letters for, as of a file's name
that is not UTF-8, is escaped.
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
    """Its exit code; where standard output could not be written, `SystemExit` with 1 and one line on standard error."""
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
            os.open(os.devnull, os.O_RDWR)  # as the lowest number that is free
            os.set_inheritable(number, True)


class _Stream(io.FileIO):
    """Raises nothing: no line that is not written shall end what is under way."""

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
    """With the encoding and the buffering that Python has chosen, but for `python -u`: by lines. What somebody has put
    in its place stays."""
    if before is not None and before is not at_start:
        return before
    ours = io.TextIOWrapper(io.BufferedWriter(stream))
    if isinstance(before, io.TextIOWrapper):
        ours.reconfigure(encoding=before.encoding, line_buffering=before.line_buffering or before.write_through)
    ours.reconfigure(errors="backslashreplace")
    return ours
