"""Where batches go. A receiver is two methods, `send` and `close`; what an answer means is an `Outcome`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Verdict(Enum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """What was sent is wrong: the same again would be refused again."""
    UNAUTHORIZED = "unauthorized"
    """The account is wrong: keep everything until somebody mends it."""
    UNAVAILABLE = "unavailable"
    """Try again later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason`: a few words for the log, without secrets. `retry_after`: seconds that the receiver asked for.

    `for_content`: it may be for what was sent, so that other events could be accepted.
    """

    verdict: Verdict
    reason: str = ""
    retry_after: float | None = None
    for_content: bool = False


class Receiver(Protocol):
    def send(self, events: Sequence[bytes]) -> Outcome:
        """Send encoded events as one batch. Returns within the receiver's deadline; raises nothing.

        Of Kafka it is asked without any, too: whether a broker answers.
        """

    def close(self) -> None:
        """Give up connections and files; `send` may be called again."""
