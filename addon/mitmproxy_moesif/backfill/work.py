"""Turns flows into events and delivers them, with the same policies, masks, spool and senders as a proxy.

Nothing is dropped for lack of room: reading waits while too many events are in progress. The spool has its own folder,
so that the counts are those of these files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mitmproxy import http

from mitmproxy_moesif.capture import flow as exchanges
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery.builder import Captured
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.pipeline import Pipeline
from mitmproxy_moesif.event.pipeline import EventBuilder
from mitmproxy_moesif.governance.sampler import Sampler
from mitmproxy_moesif.governance.snapshot import Snapshot
from mitmproxy_moesif.runtime import Prepared

MOST_WAITING = 2000
"""Reading waits while more events than this are in progress."""

AT_ONCE, AT_ONCE_BYTES = 200, 8_000_000
"""Exchanges to build and store before more are read."""

EXPECTED = frozenset({"too_old", "sampled_out", "skipped"})
"""Causes for which an event is left out on purpose; Moesif does not accept events that are too old."""

STORE_SECONDS = 60.0


class StalledError(Exception):
    """Nothing was delivered for `patience` seconds."""


class Work:
    """Use within `running`. `patience`: seconds without any delivery before it gives up."""

    def __init__(self, prepared: Prepared, folder: Path | None, patience: float) -> None:
        self._prepared, self._patience = prepared, patience
        self.left_out: Counter[str] = Counter()
        settings = prepared.instance.settings
        make = EventBuilder(Sampler(lambda _: Snapshot()), lambda kind, _: self._pipeline.fault(kind))
        self._pipeline = Pipeline(folder, settings.spool_max_bytes, make, lambda *_: None, apart=True)
        self._number = 0
        self._pending = self._pending_bytes = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        self._pipeline.start()
        self._pipeline.configure(self._prepared.instances)
        self._pipeline.look(STORE_SECONDS)
        try:
            yield
        finally:
            self._pipeline.drain(0)
            self._pipeline.close()

    @property
    def reading(self) -> Reading:
        return self._pipeline.reading()

    @property
    def is_done(self) -> bool:
        """Whether everything is delivered, or left out on purpose."""
        reading = self.reading
        return not reading.waiting and not any(n for cause, n in reading.dropped.items() if cause not in EXPECTED)

    def take(self, flow: http.HTTPFlow) -> bool:
        """Take a flow; returns whether it is time to call `store`."""
        found = self._placed(flow)
        if found is None:
            return False
        instance, kong = found
        entry = exchanges.open_exchange(flow, instance)
        entry.kong = dict(kong)
        exchange = exchanges.snapshot(entry, exchanges.end_of(entry, failed=flow.error is not None))
        self._number += 1
        self._pipeline.put(Captured(self._number, (instance, exchange)))
        self._pending, self._pending_bytes = self._pending + 1, self._pending_bytes + exchange.size
        return self._pending >= AT_ONCE or self._pending_bytes >= AT_ONCE_BYTES

    def _placed(self, flow: http.HTTPFlow) -> tuple[Instance, Mapping[str, object]] | None:
        prepared, instance = self._prepared, self._prepared.instance
        if not instance.settings.enabled:
            self.left_out["not captured (enabled=false)"] += 1
        elif prepared.skip is not None and prepared.skip(flow):
            self.left_out["not captured (skip)"] += 1
        elif prepared.resolver is None:
            return instance, {}
        elif (placed := prepared.resolver.resolve(exchanges.routable(flow), instance)).instance is None:
            self.left_out["not captured (no instance applies)"] += 1
        else:
            return placed.instance, placed.kong
        return None

    def store(self) -> None:
        """Wait until all flows taken are stored or delivered, and there is room for more. Raises `StalledError`."""
        self._pipeline.flush(STORE_SECONDS)
        self._pending = self._pending_bytes = 0
        self._wait(MOST_WAITING)

    def deliver(self) -> None:
        """Wait until everything is delivered. Raises `StalledError`."""
        self.store()
        self._wait(0)

    def _wait(self, most: int) -> None:
        ledger, settled, since = self._pipeline.ledger, -1, time.monotonic()
        while (reading := ledger.read()).waiting > most:
            done = reading.delivered + sum(reading.dropped.values())
            if done != settled:
                settled, since = done, time.monotonic()
            if time.monotonic() - since > self._patience:
                raise StalledError(self._trouble())
            ledger.changed.clear()
            ledger.changed.wait(0.1)

    def _trouble(self) -> str:
        reasons = {health.reason for health in self._pipeline.condition().health.values() if health.reason}
        return f"nothing was delivered for {self._patience:g} s: {', '.join(sorted(reasons)) or 'see the log'}"
