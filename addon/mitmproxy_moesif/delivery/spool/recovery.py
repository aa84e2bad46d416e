"""Reads what can be read of a damaged spool file, page by page and not through its tree.

SQLite gives up on a file whose header or inner pages are damaged, and takes nothing of its write-ahead log from the
first bad frame on. Yet each leaf page stands for itself, and each row has its own checksum. So this goes over all leaf
pages, as `.recover` of SQLite's shell does (which the library does not offer), and keeps the rows whose checksum holds.
Free pages are left out, since they may hold rows that were sent. Nothing is written, and any content is survived.

Source of the layout: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mitmproxy_moesif.delivery.spool import format as spool_format
from mitmproxy_moesif.delivery.spool.format import PAGE, Row

LEAF = 0x0D  # first byte of a table's leaf page
FREE = 2  # kind of a page in the pointer map
MAPPED = PAGE // 5  # pages that one page of the pointer map speaks of

LOG_HEADER = 32
FRAME_HEADER = 24
FRAME = FRAME_HEADER + PAGE

NUMBER_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # bytes of a column, by its kind
LARGEST_ROW = 1 << 28  # bytes; a larger size is a damaged one

Value = int | float | bytes | None
Unreadable = int
"""A row that is there and cannot be used: how many events it seems to have had."""


class Log(NamedTuple):
    """What a write-ahead log says up to its last commit; positions of frames count from 1, 0 where there is none."""

    frames: list[tuple[int, int]]
    """Position and number of each page."""
    last: int
    """Position of the last commit."""
    page_count: int
    """How many pages the database has after it."""


def read_log(descriptor: int) -> Log:
    """The log of an open file. Frames of earlier rounds, which have another salt, are left out.

    The checksums, which would end the reading at the first bad frame, are not looked at.
    """
    count = max(0, os.fstat(descriptor).st_size - LOG_HEADER) // FRAME
    first_frames = (_read(descriptor, 8, _frame_at(position) + 8) for position in range(1, count + 1)[:2])
    salt, _ = Counter([_read(descriptor, 8, 16), *first_frames]).most_common(1)[0]  # any one of them may be damaged
    frames: list[tuple[int, int]] = []
    committed, last, pages_then = 0, 0, 0
    for position in range(1, count + 1):
        header = _read(descriptor, FRAME_HEADER, _frame_at(position))
        if len(header) == FRAME_HEADER and header[8:16] == salt:
            page, page_count = struct.unpack_from(">II", header)
            frames.append((position, page))
            if page_count:  # only a transaction's last frame has it
                committed, last, pages_then = len(frames), position, page_count
    return Log(frames[:committed], last, pages_then)


def last_commit(log: Path) -> int:
    """Position of the last commit that a write-ahead log should have, 0 where there is none. OSError."""
    descriptor = _open(log)
    if descriptor is None:
        return 0
    try:
        return read_log(descriptor).last
    finally:
        os.close(descriptor)


class Pages:
    """The newest committed version of each page: the database, overlaid by its write-ahead log where there is one."""

    def __init__(self, database: Path, log: Path) -> None:
        self._database = _open(database)
        self._log = _open(log)
        self._map: dict[int, bytes] = {}
        found = Log([], 0, 0) if self._log is None else read_log(self._log)
        size = 0 if self._database is None else -(-os.fstat(self._database).st_size // PAGE)
        # What lies behind the database's end is of the past. A damaged number must not put that end far away.
        self.count = min(found.page_count or size, size + len(found.frames))
        self._frames = {page: position for position, page in found.frames}

    def __getitem__(self, number: int) -> bytes:
        """The page (from 1), filled up with zeros; IndexError where there is none."""
        if not 1 <= number <= self.count:
            raise IndexError(number)
        if self._log is not None and number in self._frames:
            page = _read(self._log, PAGE, _frame_at(self._frames[number]) + FRAME_HEADER)
        else:
            page = _read(self._database, PAGE, (number - 1) * PAGE) if self._database is not None else b""
        return page.ljust(PAGE, b"\0")

    def is_free(self, number: int) -> bool:
        """Whether the pointer map says that the page is not in use."""
        map_page = 2 + (number - 2) // (MAPPED + 1) * (MAPPED + 1)
        if map_page not in self._map:
            self._map[map_page] = self[map_page]
        return number > map_page and self._map[map_page][(number - map_page - 1) * 5] == FREE

    def close(self) -> None:
        for descriptor in (self._database, self._log):
            if descriptor is not None:
                os.close(descriptor)


def salvage(database: Path, log: Path) -> Iterator[Row | Unreadable]:
    """All rows that can be read, oldest first, and an Unreadable for each that can be told but not used. OSError.

    Not for a file that this process has open in SQLite: closing it here would drop SQLite's locks.
    """
    pages = Pages(database, log)
    seen = set[str]()  # a damaged page number can put one row into two places
    try:
        for _key, number, start, size in sorted(_cells(pages)):
            for found in _salvage_cell(pages, number, start, size):
                if isinstance(found, Row):
                    if found.transaction_ids in seen:
                        continue
                    seen.add(found.transaction_ids)
                yield found
    finally:
        pages.close()


def _cells(pages: Pages) -> Iterator[tuple[int, int, int, int]]:
    """Key, page, offset of the content and its size, for each cell of each leaf page. The first page is no data."""
    for number in range(2, pages.count + 1):
        page = pages[number]
        if page[0] != LEAF or pages.is_free(number):
            continue
        (count,) = struct.unpack_from(">H", page, 3)
        for (pointer,) in struct.iter_unpack(">H", page[8 : 8 + 2 * count]):
            try:
                size, at = _varint(page, pointer)
                key, at = _varint(page, at)
            except IndexError:
                continue
            if size <= LARGEST_ROW:
                yield key, number, at, size


def _salvage_cell(pages: Pages, number: int, start: int, size: int) -> Iterator[Row | Unreadable]:
    row = _row(_content(pages, number, start, size))
    if row is None:
        return
    try:
        spool_format.decode(row)
    except ValueError:
        yield max(0, min(row.event_count, row.transaction_ids.count(",") + 1))
    else:
        yield row


def _content(pages: Pages, number: int, start: int, size: int) -> bytes:
    """What a cell holds, as far as it can be read: its part on the page and the chain of pages it overflows into."""
    largest, smallest = PAGE - 35, (PAGE - 12) * 32 // 255 - 23
    local = size
    if size > largest:
        local = smallest + (size - smallest) % (PAGE - 4)
        local = local if local <= largest else smallest
    page = pages[number]
    parts, missing = [page[start : start + local]], size - local
    following, visited = int.from_bytes(page[start + local : start + local + 4]), set[int]()
    while missing > 0 and 1 < following <= pages.count and following not in visited and not pages.is_free(following):
        visited.add(following)
        page = pages[following]
        parts.append(page[4 : 4 + missing])
        missing -= PAGE - 4
        following = int.from_bytes(page[:4])
    return b"".join(parts)


def _row(record: bytes) -> Row | None:
    """The row that a record makes, not yet checked; None where it is another table's or cannot be told."""
    try:
        values = list(_values(record))
    except (IndexError, KeyError, struct.error):
        return None
    match values:
        case [
            None,
            bytes(destination),
            int() | float() as created,
            int(count),
            int(size),
            int(crc),
            bytes(ids),
            bytes(payload),
        ]:
            # A time that is a whole number is stored as an integer.
            return Row(
                destination.decode(errors="replace"),
                float(created),
                count,
                size,
                crc,
                ids.decode(errors="replace"),
                payload,
            )
    return None


def _values(record: bytes) -> Iterator[Value]:
    """A record's columns, text as its bytes, as far as the record goes."""
    header_end, at = _varint(record, 0)
    content = header_end
    while at < header_end:
        kind, at = _varint(record, at)
        size = (kind - 12) // 2 if kind >= 12 else NUMBER_SIZES[kind]
        yield _value(kind, record[content : content + size])
        content += size


def _value(kind: int, content: bytes) -> Value:
    if kind >= 12:
        return content
    if kind == 7:
        number: float = struct.unpack(">d", content)[0]
        return number
    return {0: None, 8: 0, 9: 1}.get(kind, int.from_bytes(content, signed=True))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of one to nine bytes, and where the next thing begins."""
    value = 0
    for position in range(at, at + 8):
        value = value << 7 | data[position] & 0x7F
        if data[position] < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9


def _frame_at(position: int) -> int:
    return LOG_HEADER + (position - 1) * FRAME


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _read(descriptor: int, size: int, at: int) -> bytes:
    """What is there, nothing where the disk cannot read it."""
    try:
        return os.pread(descriptor, size, at)
    except OSError:
        return b""
