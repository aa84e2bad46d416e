"""The flows of a file, one after the other, however large it is: mitmproxy's flow files, and HAR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ijson
from mitmproxy import exceptions, http
from mitmproxy.io import FlowReader

from mitmproxy_moesif.backfill.har import EntryError, flow_of

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Saved:
    """One of a file. `flow` is None for what cannot be read (`problem` says why) or is no HTTP exchange."""

    number: int
    flow: http.HTTPFlow | None
    problem: str | None = None


class FileError(Exception):
    """A file that cannot be read any further; one line."""


def read(file: BinaryIO, path: Path) -> Iterator[Saved]:
    """From number 1. Raises `FileError`."""
    start = file.read(512)
    text = start.removeprefix(BYTE_ORDER_MARK)
    file.seek(len(start) - len(text) if text.strip() else 0)
    yield from _entries(file, path) if text.lstrip().startswith(b"{") else _flows(file, path)


def _entries(file: BinaryIO, path: Path) -> Iterator[Saved]:
    number = 0
    try:
        for number, entry in enumerate(ijson.items(file, "log.entries.item", use_float=True), 1):
            try:
                yield Saved(number, flow_of(entry))
            except EntryError as error:
                yield Saved(number, None, f"{path}: entry {number}: {error}")
    except (ijson.JSONError, ValueError):
        where = f"after entry {number}" if number else "before the first entry"
        raise FileError(f"{path}: ends {where}, or is not JSON") from None
    if not number:
        raise FileError(f"{path}: holds no entry (log.entries)")


def _flows(file: BinaryIO, path: Path) -> Iterator[Saved]:
    number = 0
    try:
        for number, flow in enumerate(FlowReader(file).stream(), 1):
            yield Saved(number, flow if isinstance(flow, http.HTTPFlow) else None)
    except (exceptions.FlowReadException, OSError, ValueError, KeyError, TypeError):
        if not number:
            raise FileError(f"{path}: neither a flow file nor a HAR") from None
        raise FileError(f"{path}: flow {number + 1} cannot be read: the file is cut there, or damaged") from None
