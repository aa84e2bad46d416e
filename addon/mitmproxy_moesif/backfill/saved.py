"""Reads the flows of a file of any size, one by one: mitmproxy's flow files, and HAR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ijson
from mitmproxy import http
from mitmproxy.io import FlowReader

from mitmproxy_moesif.backfill.har import AnotherProtocol, EntryError, flow_of

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

STARTS, ENDS = frozenset({"start_map", "start_array"}), frozenset({"end_map", "end_array"})
AT_ITEM = ["log", "entries", None]
MOST_DEPTH = 1000
TOO_DEEP = object()


@dataclass(frozen=True, slots=True)
class Saved:
    """One item of a file. `flow` is None if it is unreadable (`problem` says why) or not an HTTP exchange."""

    number: int
    flow: http.HTTPFlow | None
    problem: str | None = None


class FileError(Exception):
    """A file cannot be read further; the text is one line."""


def read(file: BinaryIO, path: Path) -> Iterator[Saved]:
    """The items of a file, numbered from 1. Raises `FileError`."""
    start = file.read(512)
    text = start.removeprefix(BYTE_ORDER_MARK)
    file.seek(len(start) - len(text) if text.strip() else 0)
    yield from _entries(file, path) if text.lstrip().startswith(b"{") else _flows(file, path)


def _entries(file: BinaryIO, path: Path) -> Iterator[Saved]:
    for number, entry in _json_entries(file, path):
        try:
            if entry is TOO_DEEP:
                raise EntryError("it is nested too deep")
            yield Saved(number, flow_of(entry))
        except AnotherProtocol:
            yield Saved(number, None)
        except EntryError as error:
            yield Saved(number, None, f"{path}: entry {number}: {error}")


def _json_entries(file: BinaryIO, path: Path) -> Iterator[tuple[int, object]]:
    number = 0
    try:
        for number, entry in enumerate(_items(ijson.basic_parse(file, use_float=True)), 1):
            yield number, entry
    except (ijson.JSONError, ValueError):
        where = f"after entry {number}" if number else "before the first entry"
        raise FileError(f"{path}: ends {where}, or is not JSON") from None
    if not number:
        raise FileError(f"{path}: has no entries (log.entries)")


def _items(events: Iterable[tuple[str, Any]]) -> Iterator[object]:
    """The items of `log.entries`. ijson's own function stores the path of each value: gigabytes if deeply nested."""
    open_ones: list[str | None] = []
    """The current member of each container around the item; None for an array."""
    builder, depth = None, 0
    for event, value in events:
        if builder is None and open_ones == AT_ITEM and event not in ENDS:
            builder, depth = ijson.ObjectBuilder(), 0
        if builder is not None:
            depth += (event in STARTS) - (event in ENDS)
            if depth > MOST_DEPTH:
                builder.value = TOO_DEEP
            elif builder.value is not TOO_DEEP:
                builder.event(event, value)
            if not depth:
                yield builder.value
                builder = None
        elif event in STARTS:
            open_ones.append(None)
        elif event in ENDS:
            open_ones.pop()
        elif event == "map_key":
            open_ones[-1] = value


def _flows(file: BinaryIO, path: Path) -> Iterator[Saved]:
    number = 0
    try:
        for number, flow in enumerate(FlowReader(file).stream(), 1):
            yield Saved(number, flow if isinstance(flow, http.HTTPFlow) else None)
    except Exception:  # noqa: BLE001 - mitmproxy raises all kinds of exceptions for damaged files
        if not number:
            raise FileError(f"{path}: neither a flow file nor a HAR") from None
        raise FileError(f"{path}: flow {number + 1} cannot be read: the file is truncated there, or damaged") from None
