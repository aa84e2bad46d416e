"""Checks the spool's folder: permissions, free space, and the events in it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mitmproxy_moesif.config.destination import is_quarantine
from mitmproxy_moesif.config.text import number_of, reason_of
from mitmproxy_moesif.delivery.command import BACKFILL
from mitmproxy_moesif.delivery.spool.file import SpoolError, contents_of
from mitmproxy_moesif.doctor.configuration import Subject
from mitmproxy_moesif.doctor.findings import Finding, failure, ok, warning

CHECK = "spool"
LEAST_BYTES = 10_000_000


def examine(subject: Subject) -> Iterator[Finding]:
    folder = subject.folder
    if folder is None:
        yield warning(CHECK, "off: waiting events are lost if the process dies", "set spool_dir to a folder")
        return
    yield from permissions(folder)
    if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
        yield from waiting(folder)
        yield from left_by_backfill(folder / BACKFILL)
    yield room(folder, subject.settings.spool_max_bytes, subject.arguments.workers)


def permissions(folder: Path) -> Iterator[Finding]:
    there = nearest(folder)
    if not there.is_dir():
        yield failure(CHECK, f"{there} is not a folder", "give another spool_dir")
    elif (why := unwritable(there)) is not None:
        yield failure(CHECK, f"{there} cannot be written to by user {os.geteuid()}: {why}", "chown it, or give another")
    elif there != folder:
        yield ok(CHECK, f"{folder} will be created")
    elif (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        yield warning(CHECK, f"others can access {folder} (mode {mode:o})", f"chmod 700 {folder}")
    else:
        yield ok(CHECK, f"only this user can access {folder}")


def nearest(folder: Path) -> Path:
    """The folder, or its nearest existing parent."""
    return next(path for path in (folder, *folder.absolute().parents) if is_there(path))


def is_there(path: Path) -> bool:
    """Whether a path exists; False below a folder without access."""
    try:
        return path.exists()
    except OSError:
        return False


def unwritable(folder: Path) -> str | None:
    """Why no file can be created, tested with a temporary one: permissions alone do not tell, for instance for root."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror
    return None


def waiting(folder: Path) -> Iterator[Finding]:
    files = sorted(folder.glob("spool-*.sqlite"))
    strange = [path for path in files if path.stat().st_uid != os.geteuid()]
    if strange:
        text = f"not taken over: {number_of(len(strange), 'file')} of other users, such as {strange[0].name}"
        yield warning(CHECK, text, f"chown {os.geteuid()} {folder}/*")
    yield from counts(sorted(set(files).difference(strange)))


def counts(files: Iterable[Path]) -> Iterator[Finding]:
    waits, quarantined, running = 0, 0, 0
    for path in files:
        try:
            chunks = contents_of(path)
        except (OSError, SpoolError, sqlite3.Error) as error:
            yield warning(CHECK, f"{path.name}: {reason_of(error)}", "the next start sends the events that can be read")
            continue
        running += chunks is None
        for chunk in chunks or ():
            if is_quarantine(chunk.destination):
                quarantined += chunk.count
            else:
                waits += chunk.count
    if quarantined:
        todo = "moesif-proxy spool list, then retry or drop"
        yield warning(CHECK, f"quarantined: {number_of(quarantined, 'event')}", todo)
    left, used = number_of(waits, "event"), number_of(running, "file")
    yield ok(CHECK, f"waiting, left by ended processes: {left}; of running processes: {used}")


def left_by_backfill(folder: Path) -> Iterator[Finding]:
    """Events that a backfill left; no proxy sends them."""
    waits = 0
    for path in folder.glob("spool-*.sqlite"):
        with suppress(OSError, SpoolError, sqlite3.Error):  # `spool list` says why
            waits += sum(chunk.count for chunk in contents_of(path) or ())
    if waits:
        todo = f"run that backfill again, or: moesif-proxy spool --folder {folder} send"
        yield warning(CHECK, f"left by a backfill: {number_of(waits, 'event')}", todo)


def room(folder: Path, each: int, workers: int) -> Finding:
    bound = each * workers
    free = shutil.disk_usage(nearest(folder)).free
    used = sum(path.stat().st_size for path in folder.glob("spool-*")) if folder.is_dir() else 0
    text = f"{free // 1_000_000:,} MB are free, and the spool may grow to {bound // 1_000_000:,} MB"
    if workers > 1:
        text += f" ({each // 1_000_000:,} MB for each of {workers} workers)"
    if free < LEAST_BYTES:
        return failure(CHECK, text, "free some space, or give another spool_dir")
    if free < bound - used:
        return warning(CHECK, text, "free some space, or lower spool_max_bytes")
    return ok(CHECK, text)
