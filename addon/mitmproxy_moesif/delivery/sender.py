"""The thread that sends what waits for one destination.

One request is under way at a time, so a receiver that is down gets one probe after the other, ever further apart.
What the receiver's answers mean:

- accepted: done;
- refused: the batch is split in two and each half tried, down to the single event that is refused, dropped and counted;
- unauthorized: everything is kept; tried again, and said at error level, once a minute;
- unavailable: everything is kept; tried again after a growing, jittered pause, or when the receiver said.

Timers use the monotonic clock: a wall clock that jumps changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mitmproxy_moesif.backoff import Backoff
from mitmproxy_moesif.delivery.batch import Batch
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.delivery.receivers.base import Outcome, Receiver, Verdict
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.log import RateLimitedLog, describe, log

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
UNAUTHORIZED_PAUSE = 60.0
YIELD = 0.02


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """From the settings: events and bytes of a batch; seconds an event waits for company, and a turn may last."""

    batch_size: int
    batch_max_bytes: int
    flush_interval: float
    turn: float
    debug: bool


@dataclass(slots=True)
class Health:
    """Whether the receiver takes events; times are monotonic seconds, `not_before` forbids a request until then."""

    down_since: float | None = None
    reason: str = ""
    not_before: float = 0.0
    unauthorized: bool = False


class Sender:
    """Sends for one destination until it is stopped. `notify` wakes it; `stop` lets it drain until a deadline.

    `receiver` and `limits` may be replaced at any time; the next request uses the new ones.
    """

    def __init__(
        self,
        destination: str,
        receiver: Receiver,
        store: Store,
        ledger: Ledger,
        limits: SenderLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.destination = destination
        self.limits = limits
        self.receiver = receiver
        self.health = Health()
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._limited = RateLimitedLog(clock=clock)
        self._wake = threading.Event()
        self._idle = False
        self._drain_until: float | None = None
        self._backlog_due = 0.0
        self._thread = threading.Thread(target=self._run, name=f"moesif-send-{destination}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Something is there to send. Wakes the thread only where it would not wake in time by itself."""
        if self._idle or self._store.fresh_events(self.destination) >= self.limits.batch_size:
            self._wake.set()

    def stop(self, deadline: float) -> None:
        """Deliver what waits until `deadline` (monotonic), then end; `join` waits for that."""
        self._drain_until = deadline
        self._wake.set()

    def join(self, deadline: float) -> bool:
        """Whether the thread ended by `deadline` (monotonic)."""
        self._thread.join(max(0.0, deadline - self._clock()))
        return not self._thread.is_alive()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._finished():
            # Idle until it is sure that there is something to wait for the company of: looked at first, so that what
            # is stored from here on wakes it.
            self._idle = True
            waiting = self._store.fresh_events(self.destination) > 0
            pause = self._pause()
            self._idle = not waiting or self.health.down_since is not None
            if pause is None or pause > 0:
                self._wake.wait(pause)
            self._wake.clear()
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - the thread never dies silently, and never dies of one error
                self._ledger.fault("sender")
                self._limited.error("sender", "moesif: unexpected while sending: %s", describe(error))
                self.health.not_before = self._clock() + FIRST_PAUSE
        self.receiver.close()

    def _finished(self) -> bool:
        if self._drain_until is None:
            return False
        now = self._clock()
        waits = self._store.due(self.destination, 1, 0.0) is not None
        return now >= self._drain_until or not waits or self.health.not_before >= self._drain_until

    def _pause(self) -> float | None:
        """Seconds to sleep: until something is due, and not before the receiver may be asked again."""
        now = self._clock()
        limits = self.limits
        due = 0.0 if self._draining else self._store.due(self.destination, limits.batch_size, limits.flush_interval)
        if due is None:
            return self._end_of_keepalive()
        earliest = self.health.not_before - now
        if due == 0.0 and not self._fresh_due():
            earliest = max(earliest, self._backlog_due - now)
        pause = max(due, earliest, 0.0)
        return pause if self._drain_until is None else min(pause, max(0.0, self._drain_until - now))

    def _end_of_keepalive(self) -> float | None:
        close_idle = getattr(self.receiver, "close_idle", None)
        return close_idle() if close_idle is not None else None

    @property
    def _draining(self) -> bool:
        return self._drain_until is not None

    def _fresh_due(self) -> bool:
        limits = self.limits
        age = 0.0 if self._draining else limits.flush_interval
        return self._store.fresh_due(self.destination, limits.batch_size, age)

    def _turn(self) -> None:
        """Send for at most `limits.turn` seconds: a fresh batch, then one of the backlog, and so on."""
        end = self._clock() + self.limits.turn
        while self._clock() < end and self.health.not_before <= self._clock():
            if not (self._send_fresh() | self._send_backlog()):
                return
        self._wake.wait(YIELD if self._drain_until is None else 0)

    def _send_fresh(self) -> bool:
        if self.health.down_since is not None or not self._fresh_due():
            return False
        limits = self.limits
        taken = self._store.take_fresh(self.destination, limits.batch_size, limits.batch_max_bytes)
        return bool(taken) and self._send(Batch(taken))

    def _send_backlog(self) -> bool:
        """One batch of the backlog; the next one not before as long again, so that fresh events find room."""
        began = self._clock()
        if began < self._backlog_due or began < self.health.not_before:
            return False
        if self.health.down_since is not None:
            self._store.demote(self.destination)  # the probe is the oldest of all
        limits = self.limits
        taken = self._store.take_backlog(self.destination, limits.batch_size, limits.batch_max_bytes)
        if not taken:
            return False
        self._send(Batch(taken))
        if not self._draining:
            self._backlog_due = self._clock() + (self._clock() - began)
        return True

    def _send(self, batch: Batch) -> bool:
        """Send one batch; whatever happens, each of its events is delivered, dropped or back in the store."""
        try:
            self._drop_old(batch)
            self._bisect(batch)
        finally:
            self._store.settle(self.destination, batch.parts)
        return True

    def _drop_old(self, batch: Batch) -> None:
        old = batch.mark_old(time.time())
        if old:
            log.warning("moesif: %d events are older than 30 days; they are dropped, and counted", old)

    def _bisect(self, batch: Batch) -> None:
        ranges = batch.ranges(self.limits.batch_size, self.limits.batch_max_bytes)
        while ranges:
            low, high = ranges.pop(0)
            events = batch.events(low, high)
            if not events:
                continue
            outcome = self._call(events)
            if outcome.verdict is Verdict.ACCEPTED:
                batch.mark_delivered(low, high)
                self._recovered()
            elif outcome.verdict is not Verdict.REFUSED:
                self._failed(outcome)
                return
            elif len(events) == 1:
                self._recovered()
                log.error("moesif: the receiver refused event %s (%s)", batch.first_id(low, high), outcome.reason)
                batch.mark_dropped(low, high, "refused")
            else:
                middle = (low + high) // 2
                ranges[:0] = [(low, middle), (middle, high)]

    def _call(self, events: list[bytes]) -> Outcome:
        began = self._clock()
        outcome = self.receiver.send(events)
        if self.limits.debug:
            spent = (self._clock() - began) * 1000
            size = sum(map(len, events))
            log.info("moesif: sent %d events, %d bytes: %s, %.1f ms", len(events), size, outcome.reason, spent)
        return outcome

    # --- what an answer means ------------------------------------------------------------------------------------

    def _failed(self, outcome: Outcome) -> None:
        health, now = self.health, self._clock()
        was_up = health.down_since is None
        pause = self._backoff.failed()
        if was_up:
            health.down_since = now
        health.unauthorized = outcome.verdict is Verdict.UNAUTHORIZED
        health.reason = outcome.reason
        self._store.demote(self.destination)
        if outcome.verdict is Verdict.UNAUTHORIZED:
            health.not_before = now + UNAUTHORIZED_PAUSE
            self._limited.error(
                "unauthorized",
                "moesif: the receiver does not accept the application id (%s); events are kept: check "
                "moesif_application_id",
                outcome.reason,
            )
        else:
            health.not_before = now + (pause if outcome.retry_after is None else outcome.retry_after)
            if was_up:
                log.warning("moesif: the receiver is unavailable (%s); events are kept and sent later", outcome.reason)

    def _recovered(self) -> None:
        health = self.health
        if health.down_since is not None:
            reading = self._ledger.read()
            log.warning(
                "moesif: the receiver is back after %.0f s; %d events are waiting",
                self._clock() - health.down_since,
                reading.waiting,
            )
        health.down_since, health.reason, health.not_before, health.unauthorized = None, "", 0.0, False
        self._backoff.reset()
