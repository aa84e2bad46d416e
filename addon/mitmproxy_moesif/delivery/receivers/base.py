"""The interface of receivers: `send`, which returns an `Outcome`, and `close`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Verdict(Enum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The data is invalid: sending it again would fail again."""
    UNAUTHORIZED = "unauthorized"
    """The account is not accepted: keep everything until somebody fixes it."""
    UNAVAILABLE = "unavailable"
    """Try again later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason`: a few words for the log, without secrets. `retry_after`: seconds to wait that the receiver asked for.

    `for_content`: the content may be the cause, so that other events might be accepted.
    """

    verdict: Verdict
    reason: str = ""
    retry_after: float | None = None
    for_content: bool = False


class Receiver(Protocol):
    def send(self, events: Sequence[bytes]) -> Outcome:
        """Send encoded events as one batch. Returns within the receiver's deadline; never raises.

        For Kafka, a call without events checks whether a broker responds.
        """

    def close(self) -> None:
        """Close connections and files; `send` may still be called again."""
