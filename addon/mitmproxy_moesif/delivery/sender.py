"""The thread that sends the events waiting for one destination.

Several full batches are sent concurrently, so that a distant receiver keeps up. Each accepted request raises the number
of concurrent requests, within `SenderLimits.requests` and `MOST_BYTES`, and the size of a backlog batch, up to
`batch_max_bytes`. A receiver that is down gets one probe at a time, with a growing pause. What the answers mean:

- accepted: done;
- refused: the batch is split in two and each half tried, down to the single event that is refused, dropped and counted;
- unauthorized: everything is kept; retried, and logged at error level, once a minute;
- unavailable: everything is kept; retried after a growing, jittered pause, or when the receiver asks for it;
- either of the last two, while other events are accepted: `attempt` finds the events at fault and quarantines them.

Timers use the monotonic clock, so changes of the wall clock have no effect.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mitmproxy_moesif.backoff import Backoff
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.delivery.attempt import Attempt, Suspects
from mitmproxy_moesif.delivery.batch import Batch
from mitmproxy_moesif.delivery.connections import Connections, Job
from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.delivery.receivers.base import Outcome, Receiver, Verdict
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.log import RateLimitedLog, describe, log
from mitmproxy_moesif.recent.notes import Moved, unnoticed

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0
UNAUTHORIZED_PAUSE = 60.0
YIELD = 0.02
MOST_BYTES = 16_000_000
"""Bytes of events in concurrent requests; another request may start while the total is below it."""

UNKNOWN = "moesif: the receiver does not accept the application id (%s); events are kept: check moesif_application_id"
LOCKED_OUT = "moesif: the receiver does not accept events any more (%s), as it did before; events are kept"

PATIENCE = 3
"""After this many failures that the content may have caused, a probe is a single event."""


def pause_for(asked: float | None, growing: float) -> float:
    """Seconds to wait: what the receiver asked for, if at least `FIRST_PAUSE`; "at once" would retry without end."""
    if asked is None or asked < FIRST_PAUSE:
        return max(growing, asked or 0.0)
    return asked


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """From the settings: events and bytes of a batch; seconds that an event waits for others, and that a turn may last.

    `requests` limits concurrent requests; `keepalive` is how many seconds an idle connection is kept. `probes`: check
    the receiver without an event too, at the start and while it is down.
    """

    batch_size: int
    batch_max_bytes: int
    flush_interval: float
    turn: float
    requests: int
    keepalive: float
    probes: bool
    debug: bool


@dataclass(slots=True)
class Health:
    """Whether the receiver accepts events. Times are monotonic seconds; no request starts before `not_before`.

    `failures` counts consecutive failures that the content may have caused. `heard` is when the last request succeeded
    or failed; None if none was made.
    """

    down_since: float | None = None
    reason: str = ""
    not_before: float = 0.0
    unauthorized: bool = False
    failures: int = 0
    heard: float | None = None


@dataclass(slots=True)
class Load:
    """Requests in progress and their limits: `requests` at a time, `events` in a backlog batch.

    `most_events`: half the size of a batch that the receiver refused, for its size or for one of its events.
    """

    under_way: int = 0
    bytes: int = 0
    requests: int = 1
    events: int = 0
    most_events: int = sys.maxsize


class Sender:
    """Sends for one destination until it is stopped. `notify` wakes it; `stop` lets it drain until a deadline.

    `make_receiver` is called once for each connection; `gave_back` is called when events that were not accepted are
    back in the store.
    """

    def __init__(
        self,
        destination: str,
        make_receiver: Callable[[], Receiver],
        store: Store,
        ledger: Ledger,
        limits: SenderLimits,
        moved: Moved = unnoticed,
        gave_back: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.destination = destination
        self._moved = moved
        self._gave_back = gave_back
        self._requests = 0
        self.limits = limits
        self.health = Health()
        self._store = store
        self._ledger = ledger
        self._connections = Connections(f"moesif-post-{destination}", make_receiver, limits.keepalive)
        self._suspects = Suspects()
        self._load = Load(events=limits.batch_size)
        self._lanes = [self._take_fresh, self._take_backlog]
        self._judging = threading.Lock()  # answers come in several threads
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._limited = RateLimitedLog()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._idle = False
        self._drain_until: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"moesif-send-{destination}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def configure(self, make_receiver: Callable[[], Receiver], limits: SenderLimits) -> None:
        """Replace the receiver and the limits, from the next request on."""
        self.limits = limits
        self._connections.make, self._connections.keepalive = make_receiver, limits.keepalive

    def notify(self) -> None:
        """There is something to send. Wakes the thread only if it would not wake in time by itself."""
        if self._idle or self._store.fresh_events(self.destination) >= self.limits.batch_size:
            self._wake.set()

    def hurry(self) -> None:
        """Skip the current backoff and try now."""
        self.health.not_before = 0.0
        self._wake.set()

    def stop(self, deadline: float) -> None:
        """Deliver waiting events until `deadline` (monotonic), then end; `join` waits for the end."""
        self._drain_until = deadline
        self._ending.set()
        self._wake.set()

    def join(self, deadline: float) -> bool:
        """Whether the thread ended by `deadline` (monotonic)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._finished():
            # Set before the store is checked, so that anything stored from here on wakes the thread. It stays idle
            # unless there are fresh events to gather a batch with.
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
                self._fault(error)
        self._connections.close()

    def _fault(self, error: Exception) -> None:
        self._ledger.fault("sender")
        self._limited.error("sender", "moesif: unexpected while sending: %s", describe(error))
        self.health.not_before = time.monotonic() + FIRST_PAUSE

    def _finished(self) -> bool:
        if self._drain_until is None:
            return False
        now = time.monotonic()
        if now >= self._drain_until:
            return True
        waits = self._store.due(self.destination, 1, 0.0) is not None
        return not self._load.under_way and (not waits or self.health.not_before >= self._drain_until)

    def _pause(self) -> float | None:
        """Seconds to sleep until something is due and there is room for a request; None: until woken."""
        now = time.monotonic()
        limits = self.limits
        draining = self._drain_until is not None
        due = self._store.due(self.destination, 1 if draining else limits.batch_size, self._age)
        if due is None and self._wants_probe():
            due = 0.0
        pause = None if due is None or not self._has_room() else max(due, self.health.not_before - now, 0.0)
        if self._drain_until is None:
            return pause
        left = min(max(0.0, self._drain_until - now), threading.TIMEOUT_MAX)
        return left if pause is None else min(pause, left)

    @property
    def _age(self) -> float:
        """Seconds that an event waits for others to fill a batch."""
        return self.limits.flush_interval if self._drain_until is None else 0.0

    def _has_room(self) -> bool:
        load = self._load
        requests = 1 if self.health.down_since is not None else min(load.requests, self.limits.requests)
        return load.under_way < requests and (load.bytes < MOST_BYTES or not load.under_way)

    def _turn(self) -> None:
        """Start requests for at most `limits.turn` seconds."""
        end = time.monotonic() + self.limits.turn
        while self._has_room() and self.health.not_before <= time.monotonic():
            if time.monotonic() >= end:
                self._wake.wait(YIELD if self._drain_until is None else 0)
                return
            if (batch := self._take()) is None:
                if self._wants_probe():
                    self._begin(self._probe)
                return
            self._begin(partial(self._deliver, batch), batch.size)

    def _wants_probe(self) -> bool:
        unwell = self.health.heard is None or self.health.down_since is not None
        return unwell and self.limits.probes and self._drain_until is None and not self._load.under_way

    def _take(self) -> Batch | None:
        """The next batch: fresh and backlog alternate as long as there are both."""
        if self.health.down_since is not None:
            self._store.demote(self.destination)  # so that the probe has the oldest events
        for take in self._lanes:
            if (batch := take()) is not None:
                self._lanes.reverse()
                return batch
        return None

    def _take_fresh(self) -> Batch | None:
        limits = self.limits
        if not self._store.fresh_due(self.destination, limits.batch_size, self._age):
            return None
        taken = self._store.take_fresh(self.destination, self._share(), limits.batch_max_bytes)
        return Batch(taken) if taken else None

    def _share(self) -> int:
        """Events per batch: if more are fresh than all requests can hold at `batch_size`, each takes an equal share."""
        share = self._store.fresh_events(self.destination) // self.limits.requests
        return max(self.limits.batch_size, min(share, self._load.events))

    def _take_backlog(self) -> Batch | None:
        taken = self._store.take_backlog(self.destination, self._load.events, self.limits.batch_max_bytes)
        return Batch(taken) if taken else None

    def _begin(self, send: Job, size: int = 0) -> None:
        with self._judging:
            self._load.bytes += size
            self._load.under_way += 1
        self._connections.submit(partial(self._carry_out, send, size))

    # --- the connections' threads --------------------------------------------------------------------------------

    def _carry_out(self, send: Job, size: int, receiver: Receiver) -> None:
        try:
            send(receiver)
        except Exception as error:  # noqa: BLE001 - its events are not lost, and others go on
            self._fault(error)
        finally:
            with self._judging:
                self._load.under_way -= 1
                self._load.bytes -= size
            self._wake.set()
            if self.health.down_since is not None:
                self._gave_back(self.destination)

    def _deliver(self, batch: Batch, receiver: Receiver) -> None:
        """Send one batch. Whatever happens, each of its events ends up delivered, dropped or back in the store."""
        try:
            self._try(batch, receiver)
        finally:
            self._store.settle(self.destination, batch.parts)

    def _probe(self, receiver: Receiver) -> None:
        began = time.monotonic()
        outcome = receiver.send(())
        if outcome.verdict is Verdict.ACCEPTED:
            self._works(began)
        else:
            self._failed(outcome, began)

    def _try(self, batch: Batch, receiver: Receiver) -> None:
        self._drop_old(batch)
        began = time.monotonic()
        send = partial(self._call, receiver, began)
        attempt = Attempt(batch, send, self._suspects, self._ending)
        ranges = batch.ranges(max(self.limits.batch_size, self._load.events), self.limits.batch_max_bytes)
        outcome = attempt.run(ranges, patient=self.health.failures < PATIENCE)
        if outcome is not None:
            self._failed(outcome, began)

    def _drop_old(self, batch: Batch) -> None:
        old = batch.mark_old(time.time())
        if old:
            log.warning("moesif: older than 30 days, dropped and counted: %s", number_of(old, "event"))

    def _note(self, ids: Sequence[str], outcome: Outcome, number: int) -> None:
        """To who looks at exchanges."""
        if outcome.verdict is Verdict.ACCEPTED:
            self._moved(ids, "sent", f"{outcome.reason}, request {number} with {number_of(len(ids), 'event')}")
        elif outcome.verdict is not Verdict.REFUSED:
            self._moved(ids, "retrying", outcome.reason)
        elif len(ids) == 1:
            self._moved(ids, "refused", outcome.reason)

    def _call(self, receiver: Receiver, began: float, ids: Sequence[str], events: list[bytes]) -> Outcome:
        """`began`: when the batch was taken."""
        asked = time.monotonic()
        self._requests += 1
        number = self._requests
        outcome = receiver.send(events)
        self._note(ids, outcome, number)
        if self.limits.debug:
            spent = (time.monotonic() - asked) * 1000
            size = sum(map(len, events))
            sent = number_of(len(events), "event")
            log.info("moesif: sent %s, %d bytes: %s, %.1f ms", sent, size, outcome.reason, spent)
        if outcome.verdict is Verdict.ACCEPTED:
            self._accepted(began)
        elif outcome.verdict is Verdict.REFUSED:
            self._refused(len(events))
            self._works(began)
        return outcome

    # --- what an answer means ------------------------------------------------------------------------------------

    def _failed(self, outcome: Outcome, began: float) -> None:
        self._store.demote(self.destination)
        with self._judging:
            if self._is_past(began):
                return
            health, load, now = self.health, self._load, time.monotonic()
            was_up, health.heard = health.down_since is None, now
            pause = self._backoff.failed()
            if was_up:
                health.down_since = now
            load.requests, load.events = 1, self.limits.batch_size
            health.failures += outcome.for_content
            # If this application id was accepted before, a 403 has another cause.
            known = outcome.for_content and self._suspects.accepted > 0
            health.unauthorized = outcome.verdict is Verdict.UNAUTHORIZED and not known
            health.reason = outcome.reason
            if health.unauthorized:
                health.not_before = now + UNAUTHORIZED_PAUSE
            else:
                health.not_before = now + pause_for(outcome.retry_after, pause)
        self._tell(outcome, was_up=was_up)

    def _tell(self, outcome: Outcome, *, was_up: bool) -> None:
        if self.health.unauthorized:
            text = LOCKED_OUT if self._suspects.accepted else UNKNOWN
            self._limited.error(text, text, outcome.reason)
        elif was_up:
            log.warning("moesif: the receiver is unavailable (%s); events are kept and sent later", outcome.reason)

    def _accepted(self, began: float) -> None:
        with self._judging:
            self._suspects.accepted += 1
            if not self._is_past(began):
                load, limits = self._load, self.limits
                load.requests = min(load.requests + 1, limits.requests)
                load.events = min(load.events * 2, load.most_events)
        self._works(began)

    def _refused(self, count: int) -> None:
        with self._judging:
            load = self._load
            if count > self.limits.batch_size:
                load.most_events = max(self.limits.batch_size, count // 2)
                load.events = min(load.events, load.most_events)

    def _works(self, began: float) -> None:
        """The receiver works: it accepted or refused what was sent."""
        with self._judging:
            if self._is_past(began):
                return
            health = self.health
            down_since = health.down_since
            health.down_since, health.reason, health.not_before = None, "", 0.0
            health.unauthorized, health.failures, health.heard = False, 0, time.monotonic()
            self._backoff.reset()
        if down_since is not None:
            waiting = number_of(self._ledger.read().waiting, "event")
            log.info("moesif: the receiver is back after %.0f s; %s to send", time.monotonic() - down_since, waiting)

    def _is_past(self, began: float) -> bool:
        """Whether a request began before the receiver went down, so that its outcome says nothing about it now."""
        return self.health.down_since is not None and began < self.health.down_since
