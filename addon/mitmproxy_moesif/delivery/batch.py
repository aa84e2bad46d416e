"""Chunks on their way to the receiver, and the outcome of each of their events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mitmproxy_moesif.delivery.reading import read_event
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.queue import Waiting

type Range = tuple[int, int]

OLDEST = 30 * 24 * 3600
"""Seconds: Moesif refuses events that are older."""


@dataclass(slots=True, eq=False)
class Part:
    """One chunk of a batch; `settled` are the indexes of its events that are delivered, dropped or moved.

    `moved` are the indexes of events that go to another destination, by its name.
    """

    waiting: Waiting
    delivered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    settled: set[int] = field(default_factory=set)
    moved: dict[str, list[int]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.waiting.count - len(self.settled)

    def rest(self) -> Chunk:
        """The chunk with its unsettled events; still the same row on disk."""
        chunk = self.waiting.chunk
        indexes = [index for index in range(len(chunk.events)) if index not in self.settled]
        return self._chunk(chunk.destination, indexes, chunk.key)

    def to_move(self) -> list[Chunk]:
        return [self._chunk(destination, indexes) for destination, indexes in self.moved.items()]

    def _chunk(self, destination: str, indexes: Sequence[int], key: int | None = None) -> Chunk:
        chunk = self.waiting.chunk
        return Chunk(
            destination,
            chunk.created,
            tuple(chunk.transaction_ids[index] for index in indexes),
            tuple(chunk.events[index] for index in indexes),
            key,
        )


class Batch:
    """Events numbered across all chunks; ranges are half-open."""

    def __init__(self, taken: Sequence[Waiting]) -> None:
        self.parts = [Part(waiting) for waiting in taken]
        self.destination = taken[0].chunk.destination
        self.size = sum(waiting.chunk.size for waiting in taken)
        self._places = [(part, index) for part in self.parts for index in range(part.waiting.count)]

    def ranges(self, max_events: int, max_bytes: int) -> list[Range]:
        """The batch split into requests within both limits; an event above `max_bytes` gets its own request."""
        ranges: list[Range] = []
        low = size = 0
        for position, (part, index) in enumerate(self._places):
            length = len(part.waiting.chunk.events[index]) + 1
            if position > low and (position - low >= max_events or size + length > max_bytes):
                ranges.append((low, position))
                low, size = position, 0
            size += length
        if low < len(self._places):
            ranges.append((low, len(self._places)))
        return ranges

    def events(self, low: int, high: int) -> list[bytes]:
        return [part.waiting.chunk.events[index] for part, index in self._open(low, high)]

    @property
    def created(self) -> float:
        """When its oldest event was captured, in wall-clock seconds."""
        return min(part.waiting.chunk.created for part in self.parts)

    @property
    def count(self) -> int:
        return len(self._places)

    def open(self) -> list[int]:
        """The positions of the unsettled events."""
        return [position for position, (part, index) in enumerate(self._places) if index not in part.settled]

    def id_at(self, position: int) -> str:
        part, index = self._places[position]
        return part.waiting.chunk.transaction_ids[index]

    def mark_delivered(self, low: int, high: int) -> None:
        for part, index in self._open(low, high):
            part.settled.add(index)
            part.delivered += 1

    def mark_dropped(self, low: int, high: int, cause: str) -> None:
        for part, index in self._open(low, high):
            part.settled.add(index)
            part.dropped[cause] += 1

    def mark_moved(self, low: int, high: int, destination: str) -> None:
        for part, index in self._open(low, high):
            part.settled.add(index)
            part.moved.setdefault(destination, []).append(index)

    def mark_old(self, now: float) -> int:
        """Drop events that are too old for the receiver; returns how many. `now`: wall-clock seconds."""
        limit = datetime.fromtimestamp(now - OLDEST, UTC).isoformat(timespec="milliseconds")[:23]
        old = 0
        for position, (part, index) in enumerate(self._places):
            chunk = part.waiting.chunk
            if chunk.created < now - OLDEST and _is_before(limit, chunk.events[index]):
                self.mark_dropped(position, position + 1, "too_old")
                old += 1
        return old

    def _open(self, low: int, high: int) -> list[tuple[Part, int]]:
        return [(part, index) for part, index in self._places[low:high] if index not in part.settled]


def _is_before(limit: str, event: bytes) -> bool:
    """Whether the event's time is before `limit`. An unreadable time counts as not: the receiver decides."""
    try:
        return read_event(event).request.time < limit
    except ValueError:
        return False
