"""The way from the event loop's thread to the background: a queue that never blocks and never grows past its limits.

One thread puts, one takes. The putting side takes no lock: a deque's append is atomic, and each number here is written
by one side alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.event.exchange import Exchange


class Captured(NamedTuple):
    """An exchange and its number. `content` is None for one that was handed over and cannot be read."""

    number: int
    content: tuple[Instance, Exchange] | None

    @property
    def size(self) -> int:
        return self.content[1].size if self.content is not None else 0


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

    def put(self, captured: Captured) -> str | None:
        """Without room it is counted as dropped; the cause is returned."""
        cause = self._full(captured.size)
        if cause is not None:
            self._ledger.turned_away[cause] += 1
            return cause
        self._bytes_in += captured.size
        self._ledger.entered += 1
        self._queue.append(captured)
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
        """The oldest exchange, None when there is none. It counts as waiting until the taker settles it."""
        try:
            captured = self._queue.popleft()
        except IndexError:
            return None
        self._bytes_out += captured.size
        return captured

    def wait(self) -> None:
        """Sleep until something is put, or `wake` is set from outside."""
        self._asleep = True
        if not self._queue:
            self.wake.wait()
        self._asleep = False
        self.wake.clear()
