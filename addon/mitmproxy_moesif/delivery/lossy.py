"""Receivers that may lose records: each in bounded memory, tried once, and never waited for.

A batch goes out when it has `MOST_RECORDS` or `MOST_BYTES`, or after `LINGER` seconds. With `MOST_CALLS` under way a
batch is dropped; so is one whose call fails. Each lost record is counted under a cause. At most one batch waits beside
those under way.
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
"""At the end, what may be waited for calls under way once everything else is done."""

KEPT = 64
"""Targets that are remembered while nothing is under way to them."""

IN_FLIGHT = "in_flight"
CAUSES = {Verdict.REFUSED: "refused", Verdict.UNAUTHORIZED: "unauthorized", Verdict.UNAVAILABLE: "unavailable"}


class LossyReceiver:
    """One target. `put` is for one thread, `flush` for another; calls are made in threads of their own."""

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
        """`summary` is what is logged of it."""
        if self._level <= logging.INFO:
            log.info("[akto-api] -> %s", summary)
        with self._lock:
            self._records.append(record)
            self._bytes += len(record)
            is_full = len(self._records) >= MOST_RECORDS or self._bytes >= MOST_BYTES
        if is_full:
            self.flush()

    def flush(self) -> None:
        """Send what waits, or drop it where too many calls are under way."""
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
        """What is under way is not counted any more."""
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
    """All of them; `make` gives a target's receiver, one for each connection."""

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
        self._receivers = {**self._receivers, target: receiver}  # others look through the old one meanwhile
        return receiver

    def health(self, targets: Set[AktoTarget]) -> dict[str, Health]:
        """Of those of these targets that were sent anything."""
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
        """Until nothing is under way, `deadline` (monotonic), or `DRAIN_SECONDS` have passed."""
        end = min(deadline, time.monotonic() + DRAIN_SECONDS)
        self._flush()
        while time.monotonic() < end and any(receiver.busy for receiver in self._receivers.values()):
            time.sleep(0.01)

    def close(self) -> None:
        """What waits then is dropped, and counted."""
        self._closed.set()
        self._waiting.set()
        for receiver in self._receivers.values():
            receiver.close()
