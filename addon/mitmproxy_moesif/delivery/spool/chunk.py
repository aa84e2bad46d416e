"""The unit that the spool stores and the sender sends: a small group of encoded events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Chunk:
    """Encoded, already masked events of one destination, in the order they were captured.

    `destination` identifies the receiver's account by a hash (16 hex digits); `created` is the wall-clock time, in
    seconds, at which the oldest of the events was captured; `events` are JSON objects without a raw newline.
    `key` is the row in the spool, None while the chunk is in memory only.
    """

    destination: str
    created: float
    transaction_ids: tuple[str, ...]
    events: tuple[bytes, ...]
    key: int | None = None

    @property
    def size(self) -> int:
        """Bytes of encoded JSON."""
        return sum(map(len, self.events))
