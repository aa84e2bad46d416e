"""Progress in a file: on disk, to resume after a kill; and on the terminal, as a bar or as lines."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import orjson
from tqdm import tqdm

from mitmproxy_moesif.config.files import replace_file

LINE_SECONDS = 5.0


class Progress:
    """Progress in one file. `taken`: the number of flows that an earlier run stored, or counted as not to be sent."""

    def __init__(self, folder: Path | None, path: Path) -> None:
        status = path.stat()
        file = os.fsencode(path.resolve()) + f"\0{status.st_size}\0{status.st_mtime_ns}".encode()
        name = hashlib.sha256(file).hexdigest()[:16]
        self._path = folder / f"backfill-{name}.json" if folder is not None else None
        self.taken = self._read()

    def _read(self) -> int:
        if self._path is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                return int(orjson.loads(self._path.read_bytes())["taken"])
        return 0

    def note(self, taken: int) -> None:
        """Save the progress. Raises `OSError`."""
        if self._path is not None:
            replace_file(self._path, orjson.dumps({"taken": taken}))

    def forget(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Display:
    """A progress bar on a terminal, otherwise a line from time to time."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name) if sys.stderr.isatty() else None
        self._next = time.monotonic() + LINE_SECONDS

    def show(self, position: int, number: int) -> None:
        if self._bar is not None:
            self._bar.update(position - self._bar.n)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            sys.stderr.write(f"{self._path}: {100 * position // max(1, self._size)} %, {number} exchanges\n")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
