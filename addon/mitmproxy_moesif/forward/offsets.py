"""How far each partition is done: what may be committed is everything before the first record that is not done."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping


class Offsets:
    """`take` is called with rising offsets of a partition; `done` in any order, from any thread.

    An offset that falls means another topic of this name, or one whose end was lost: what was known is of no use then.
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
        """Also of a partition that is another's meanwhile, or ours again: delivered is delivered."""
        with self._lock:
            self._open.get(partition, {}).pop(offset, None)

    def due(self) -> dict[int, int]:
        """The next offset to read of each partition where it has moved on since `commit`."""
        with self._lock:
            now = {partition: next(iter(self._open[partition]), after) for partition, after in self._next.items()}
            return {partition: offset for partition, offset in now.items() if self._committed.get(partition) != offset}

    def commit(self, offsets: Mapping[int, int]) -> None:
        """The broker has these."""
        with self._lock:
            self._committed.update(offsets)

    def forget(self, partitions: Iterable[int]) -> None:
        """They are another's now."""
        with self._lock:
            for partition in partitions:
                self._forget(partition)

    def _forget(self, partition: int) -> None:
        for table in (self._open, self._next, self._committed):
            table.pop(partition, None)
