"""Receivers that may lose records: bounded memory, one attempt for each record, and nothing waits for them.

A batch is sent when it has `MOST_RECORDS` or `MOST_BYTES`, or after `LINGER` seconds. It is dropped if `MOST_CALLS`
calls are in progress, or if its call fails. Each lost record is counted by cause. At most one batch waits in addition
to those in progress.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence, Set
from functools import partial

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.delivery.connections import Connections
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.delivery.receivers.base import Receiver, Verdict
from mitmproxy_moesif.delivery.sender import Health
from mitmproxy_moesif.log import RateLimitedLog, describe, log

MOST_RECORDS = 100
MOST_BYTES = 1_000_000
LINGER = 0.2
MOST_CALLS = 20
KEEPALIVE = 5.0
DRAIN_SECONDS = 1.0
"""How long to wait at the end for calls in progress, once everything else is done."""

KEPT = 64
"""From this number of targets on, idle ones are forgotten."""

IN_FLIGHT = "in_flight"
CAUSES = {Verdict.REFUSED: "refused", Verdict.UNAUTHORIZED: "unauthorized", Verdict.UNAVAILABLE: "unavailable"}


class LossyReceiver:
    """One target. `put` is for one thread, `flush` for another; calls run in separate threads."""

    def __init__(self, target: AktoTarget, make: Callable[[], Receiver], ledger: Ledger) -> None:
        self.name = target.name
        self.health = Health()
        self._level = target.log_level
        self._ledger = ledger
        self._limited = RateLimitedLog()
        self._connections = Connections(f"moesif-post-{target.name}", make, KEEPALIVE)
        self._lock = threading.Lock()
        self._records: list[bytes] = []
        self._bytes = self._calls = 0
        self._closed = False

    @property
    def busy(self) -> bool:
        return bool(self._calls or self._records)

    def put(self, record: bytes, summary: str) -> None:
        """Add a record. `summary` is its text for the log."""
        if self._level <= logging.INFO:
            log.info("[akto-api] -> %s", summary)
        with self._lock:
            self._records.append(record)
            self._bytes += len(record)
            is_full = len(self._records) >= MOST_RECORDS or self._bytes >= MOST_BYTES
        if is_full:
            self.flush()

    def flush(self) -> None:
        """Send the waiting records, or drop them if too many calls are in progress."""
        with self._lock:
            if self._closed or not self._records:
                return
            records, self._records, self._bytes = self._records, [], 0
            calls = self._calls
            self._calls += calls < MOST_CALLS
        if calls < MOST_CALLS:
            self._connections.submit(partial(self._send, records))
        else:
            self._miss(len(records), IN_FLIGHT)
            self._warn(IN_FLIGHT, f"ingest dropped - {calls} in flight")

    def close(self) -> None:
        """Calls that are still in progress are no longer counted."""
        with self._lock:
            self._closed = True
        self._connections.close()

    # --- the calls' threads --------------------------------------------------------------------------------------

    def _send(self, records: Sequence[bytes], receiver: Receiver) -> None:
        try:
            self._call(records, receiver)
        except Exception as error:  # noqa: BLE001 - counted; others go on
            self._ledger.fault("lossy")
            self._miss(len(records), "internal_error")
            self._limited.error("fault", "[akto-api] unexpected while sending: %s", describe(error))
        finally:
            with self._lock:
                self._calls -= 1

    def _call(self, records: Sequence[bytes], receiver: Receiver) -> None:
        began = time.monotonic()
        outcome = receiver.send(records)
        self.health.heard = time.monotonic()
        if outcome.verdict is Verdict.ACCEPTED:
            self._count(lambda: self._ledger.passed_on(self.name, len(records)))
            self.health.down_since, self.health.reason = None, ""
            if self._level <= logging.INFO:
                log.info("[akto-api] ingest ok")
        else:
            self._miss(len(records), CAUSES[outcome.verdict])
            if self.health.down_since is None:
                self.health.down_since = began
            self.health.unauthorized = outcome.verdict is Verdict.UNAUTHORIZED
            self.health.reason = outcome.reason
            self._warn(outcome.reason, outcome.reason)
        if self._level <= logging.DEBUG:
            size, spent = sum(map(len, records)), (time.monotonic() - began) * 1000
            log.info("[akto-api] %d records, %d bytes, %.1f ms", len(records), size, spent)

    def _miss(self, count: int, cause: str) -> None:
        self._count(lambda: self._ledger.missed(self.name, count, cause))

    def _count(self, count: Callable[[], None]) -> None:
        with self._lock:
            if not self._closed:
                count()

    def _warn(self, kind: str, text: str) -> None:
        if self._level <= logging.WARNING:
            self._limited.warning(kind, "[akto-api] %s", text)


class LossyReceivers:
    """All lossy receivers; `make` returns a target's receiver, one for each connection."""

    def __init__(self, make: Callable[[AktoTarget], Receiver], ledger: Ledger) -> None:
        self._make = make
        self._ledger = ledger
        self._receivers: dict[AktoTarget, LossyReceiver] = {}
        self._waiting = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="moesif-lossy", daemon=True)

    def put(self, target: AktoTarget, record: bytes, summary: str) -> None:
        """For one thread."""
        receiver = self._receivers.get(target) or self._add(target)
        receiver.put(record, summary)
        if not self._waiting.is_set():
            self._waiting.set()

    def _add(self, target: AktoTarget) -> LossyReceiver:
        if len(self._receivers) >= KEPT:
            self._receivers = {one: receiver for one, receiver in self._receivers.items() if receiver.busy}
        receiver = LossyReceiver(target, partial(self._make, target), self._ledger)
        if not self._thread.is_alive() and not self._closed.is_set():
            self._thread.start()
        self._receivers = {**self._receivers, target: receiver}  # a copy: other threads iterate over the old dict
        return receiver

    def health(self, targets: Set[AktoTarget]) -> dict[str, Health]:
        """The health of those of these targets that were sent anything, by name."""
        return {receiver.name: receiver.health for target, receiver in self._receivers.items() if target in targets}

    def _run(self) -> None:
        while not self._closed.is_set():
            self._waiting.wait()
            self._closed.wait(LINGER)
            self._waiting.clear()
            self._flush()

    def _flush(self) -> None:
        for receiver in self._receivers.values():
            receiver.flush()

    def drain(self, deadline: float) -> None:
        """Send the rest; wait until no call is in progress, until `deadline` (monotonic), at most `DRAIN_SECONDS`."""
        end = min(deadline, time.monotonic() + DRAIN_SECONDS)
        self._flush()
        while time.monotonic() < end and any(receiver.busy for receiver in self._receivers.values()):
            time.sleep(0.01)

    def close(self) -> None:
        """Close all receivers. The ledger counts the records that still wait as dropped."""
        self._closed.set()
        self._waiting.set()
        for receiver in self._receivers.values():
            receiver.close()
