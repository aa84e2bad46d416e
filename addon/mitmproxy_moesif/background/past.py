"""The accounts of helpers that died."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mitmproxy_moesif.delivery.ledger import Reading


@dataclass(frozen=True, slots=True)
class Past:
    """What helpers that died had done. `left` events were on disk then, for the successor to find."""

    settled: int = 0
    recovered: int = 0
    delivered: int = 0
    left: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def and_then(self, last: Reading) -> Past:
        """With a helper that died after this report. What was stored in its memory alone is lost."""
        entered = last.captured - last.recovered
        in_memory = max(0, last.waiting_in_memory - (entered - last.settled))
        done = last.delivered + last.dropped_total + in_memory
        lost = Counter({"helper_died": in_memory}) if in_memory else Counter[str]()
        return Past(
            self.settled + last.settled,
            self.recovered + last.recovered,
            self.delivered + last.delivered,
            self.left + last.settled + last.recovered - done,
            self.dropped + Counter(last.dropped) + lost,
            self.faults + Counter(last.faults),
        )
