"""What the proxy sees of delivery; `DeliveryClient` is it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.sender import Health
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.recent.notes import Note

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


class Delivery(Protocol):
    """Takes exchanges and delivers them. `put`, `skip` and `configure` are for the event loop's thread."""

    def start(self) -> None:
        """Once, on the event loop. What was put before waits until then. Does nothing once closed."""

    def configure(self, instances: Sequence[Instance]) -> None:
        """These are all that are configured from now on; the next request is sent by their settings."""

    def sample(self, account: str, config: bytes) -> None:
        """Moesif's configuration for this account, JSON: it says which share of the events is kept."""

    def bound_spool(self, max_bytes: int) -> None:
        """Let the spool take so many bytes of disk space from now on; what is stored stays."""

    def put(self, instance: Instance, exchange: Exchange) -> str | None:
        """Hand over an exchange. Never waits; without room it is dropped and counted: for this cause."""

    def exclude(self) -> None:
        """Count an exchange that is not captured, as configured."""

    keeps_recent: bool
    """Whether anybody wants to hear of exchanges without an event."""

    def note(self, note: Note) -> None:
        """Tell of an exchange without an event. For the event loop's thread."""

    def recent(self, query: Mapping[str, Any]) -> Future[bytes | None]:
        """JSON, as `RecentExchanges.answer` has it; None where nothing is kept, or nobody answers. From any thread."""

    def fault(self, kind: str) -> None:
        """Count a fault of ours. From any thread."""

    def reading(self) -> Reading:
        """Where every event is. From any thread."""

    def condition(self) -> Condition:
        """From any thread."""

    def drain(self, seconds: float) -> None:
        """Send what waits, for at most `seconds`. What is put meanwhile is still taken. Not for the event loop."""

    def hurry(self) -> None:
        """Try to send now what waits, whatever pause a receiver was given. From any thread."""

    def abort(self) -> None:
        """End a `drain` under way at once; what is on disk stays there."""

    def close(self) -> Reading:
        """Store what was put last and end; takes no more than a moment. Returns the end state.

        What is left on disk is sent by the next process; what is left in memory alone is counted as dropped.
        """
