"""What delivery reports about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.sender import Health

type Answered = Callable[[str, Mapping[str, str]], None]
"""Called for each response of a receiver with the account and the response's headers."""


@dataclass(frozen=True, slots=True)
class SpoolCondition:
    """Bytes on disk and their limit; the disk's problem in one line, if any; the name of this process's file."""

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
    """The state of delivery: the counts, each receiver's health by destination, the disk (None: in memory only).

    `unsent`: events waiting for destinations that nobody sends to; `oldest_at`: when the oldest of all other events
    arrived, in monotonic seconds. `memory_bytes`: size of the events stored only in memory. `trouble`: the problem with
    delivery as a whole, in one line, if any.
    """

    reading: Reading
    health: Mapping[str, Health]
    oldest_at: float | None
    spool: SpoolCondition | None
    memory_bytes: int = 0
    trouble: str | None = None
    unsent: Mapping[str, Unsent] = field(default_factory=dict)
