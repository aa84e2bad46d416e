"""The operator's decisions about stored events: a file in the spool's folder, read by each process that uses it.

A decision applies to events stored before it, and stays in the file: a process that takes over a spool file later
carries it out then.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from mitmproxy_moesif.config.files import replace_file
from mitmproxy_moesif.config.text import reason_of
from mitmproxy_moesif.log import log

KEPT = 100


@dataclass(frozen=True, slots=True)
class Decision:
    """Events for `destination` captured `before` (wall-clock seconds) move `to` another one; None: they are dropped."""

    destination: str
    to: str | None
    before: float


def read(folder: Path) -> list[Decision]:
    """All decisions, oldest first. Raises `OSError`, and `ValueError` if the file is damaged."""
    path = _path(folder)
    try:
        return [Decision(**plain) for plain in orjson.loads(path.read_bytes())] if path.exists() else []
    except TypeError as error:
        raise ValueError(f"{path} is not a list of decisions") from error


def add(folder: Path, decision: Decision) -> None:
    """Add a decision; removes earlier ones about its target. Raises as `read`; `ValueError` if target equals source."""
    if decision.to == decision.destination:
        raise ValueError(f"{decision.to} is where they are")
    with _alone(folder):
        earlier = [one for one in read(folder) if one.destination != decision.to]
        replace_file(_path(folder), orjson.dumps([*earlier, decision][-KEPT:]))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One adds after the other: what both had read, the later would write without what the earlier has added."""
    descriptor = os.open(folder / ".decisions.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Decisions:
    """A folder's decisions, read again when the file changes. An unreadable file counts as empty and is logged once."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: tuple[int, int] | None = None
        self._current: Sequence[Decision] = ()
        self._told = ""

    def current(self) -> Sequence[Decision]:
        if self._folder is None:
            return ()
        try:
            status = _path(self._folder).stat()
            if (seen := (status.st_mtime_ns, status.st_ino)) != self._seen:
                self._seen = seen
                self._current = read(self._folder)
        except (FileNotFoundError, NotADirectoryError):  # the spool reports the latter
            self._current = ()
        except (OSError, ValueError) as error:
            if str(error) != self._told:
                self._told = str(error)
                log.error("moesif: what was decided about the spool cannot be read: %s", reason_of(error))
            self._current = ()
        return self._current


def _path(folder: Path) -> Path:
    return folder / "decisions.json"
