"""What delivery tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.sender import Health

type Answered = Callable[[str, Mapping[str, str]], None]
"""Observer of each answer of a receiver: the account, and the answer's headers."""


@dataclass(frozen=True, slots=True)
class SpoolCondition:
    """Bytes on disk and their bound; what is wrong with the disk, in one line; the name of this process's file."""

    bytes: int
    max_bytes: int
    trouble: str | None
    own_file: str | None = None


@dataclass(frozen=True, slots=True)
class Unsent:
    """Events that nobody sends: how many, since when about (wall-clock seconds), and why."""

    events: int
    since: float
    state: Literal["quarantined", "not configured"]


@dataclass(frozen=True, slots=True)
class Condition:
    """How delivery does: the counts, each receiver's health by destination, the disk (None: in memory only).

    `unsent` is what waits for destinations that nobody sends to; `oldest_at` is when the oldest of all others came, in
    monotonic seconds. `memory_bytes` is what is stored in memory alone. `trouble` is what is wrong with delivery as a
    whole, in one line.
    """

    reading: Reading
    health: Mapping[str, Health]
    oldest_at: float | None
    spool: SpoolCondition | None
    memory_bytes: int = 0
    trouble: str | None = None
    unsent: Mapping[str, Unsent] = field(default_factory=dict)
