"""Tracks the progress of each partition: everything before the first record not yet done may be committed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping


class Offsets:
    """Call `take` with ascending offsets of a partition, and `done` in any order, from any thread.

    A lower offset means another topic of this name, or one that lost its end; then the partition's state is discarded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, dict[int, None]] = {}
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}

    def take(self, partition: int, offset: int) -> None:
        with self._lock:
            if offset < self._next.get(partition, 0):
                self._forget(partition)
            self._open.setdefault(partition, {})[offset] = None
            self._next[partition] = offset + 1

    def done(self, partition: int, offset: int) -> None:
        """Mark a record as done; also valid for a partition that was reassigned in the meantime."""
        with self._lock:
            self._open.get(partition, {}).pop(offset, None)

    def due(self) -> dict[int, int]:
        """The next offset to read, for each partition that has advanced since `commit`."""
        with self._lock:
            now = {partition: next(iter(self._open[partition]), after) for partition, after in self._next.items()}
            return {partition: offset for partition, offset in now.items() if self._committed.get(partition) != offset}

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Record that the broker has these offsets."""
        with self._lock:
            self._committed.update(offsets)

    def forget(self, partitions: Iterable[int]) -> None:
        """Discard partitions that now belong to another member."""
        with self._lock:
            for partition in partitions:
                self._forget(partition)

    def _forget(self, partition: int) -> None:
        for table in (self._open, self._next, self._committed):
            table.pop(partition, None)
