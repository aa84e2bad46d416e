"""The way from the event loop's thread to the background: a queue that never blocks and never grows past its limits.

One thread puts, one takes. The putting side takes no lock: a deque's append is atomic, and each number here is written
by one side alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.event.exchange import Exchange

Captured = tuple[Instance, Exchange]


class ExchangeQueue:
    """`max_events` and `max_bytes` bound all that waits in memory, also behind this queue (`stored_bytes` tells)."""

    def __init__(self, ledger: Ledger, stored_bytes: Callable[[], int] = lambda: 0) -> None:
        self.wake = threading.Event()
        self.max_events = 100_000
        self.max_bytes = 2**28
        self._ledger = ledger
        self._stored_bytes = stored_bytes
        self._queue: deque[Captured] = deque()
        self._bytes_in = 0
        self._bytes_out = 0
        self._asleep = False

    def put(self, instance: Instance, exchange: Exchange) -> str | None:
        """Hand over an exchange. Without room it is counted as dropped; the cause is returned."""
        cause = self._full(exchange.size)
        if cause is not None:
            self._ledger.turned_away[cause] += 1
            return cause
        self._bytes_in += exchange.size
        self._ledger.entered += 1
        self._queue.append((instance, exchange))
        if self._asleep:
            self._asleep = False
            self.wake.set()
        return None

    def _full(self, size: int) -> str | None:
        if self._ledger.in_memory() >= self.max_events:
            return "queue_full"
        return "queue_bytes" if self.bytes + size > self.max_bytes else None

    @property
    def bytes(self) -> int:
        """About the bytes that wait in memory."""
        return self._bytes_in - self._bytes_out + self._stored_bytes()

    def take(self) -> Captured | None:
        """The oldest exchange, now in the taker's hand; None when there is none."""
        try:
            captured = self._queue.popleft()
        except IndexError:
            return None
        self._bytes_out += captured[1].size
        self._ledger.take(1)
        return captured

    def wait(self) -> None:
        """Sleep until something is put, or `wake` is set from outside."""
        self._asleep = True
        if not self._queue:
            self.wake.wait()
        self._asleep = False
        self.wake.clear()
