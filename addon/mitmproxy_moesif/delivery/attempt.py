"""Sends one batch through one connection, and searches for events that the receiver rejects.

A refused batch is halved until the event at fault is found, which is dropped. If a batch fails and its content may be
the cause, it may also be the start of an outage. So one of its events is sent alone, and only if that is accepted, the
rest is halved too. An event that keeps failing alone while others are accepted is quarantined.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mitmproxy_moesif.config.destination import quarantine_of
from mitmproxy_moesif.delivery.batch import Batch, Range
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict
from mitmproxy_moesif.governance.model import one_line
from mitmproxy_moesif.log import log

PAUSES = (0.5, 1.0)
"""Seconds between attempts to send the same event alone."""

PROOF = 3
"""How often an event must fail alone before it is quarantined."""

MOST_ALONE = 10
"""This many events in a row that fail alone suggest an outage."""

MOST_SUSPECTS = 1000

LONGEST_ID = 100
"""Characters of a transaction id that are logged; an id read from a Kafka topic can be anything."""


@dataclass(slots=True)
class Suspects:
    """Events of one queue that failed alone: how often, and how many requests were `accepted` before."""

    accepted: int = 0
    found_one: bool = False
    _failed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def failed_alone(self, transaction_id: str, accepted: int) -> None:
        """Record a failure. `accepted`: the number of accepted requests when the attempt began."""
        if len(self._failed) >= MOST_SUSPECTS:
            self._failed.clear()
        times, since = self._failed.get(transaction_id, (0, accepted))
        self._failed[transaction_id] = times + 1, since

    def is_one(self, transaction_id: str) -> bool:
        return transaction_id in self._failed

    def is_proven(self, transaction_id: str) -> bool:
        """Whether it failed often enough while others were accepted."""
        times, since = self._failed.get(transaction_id, (0, self.accepted))
        return times >= PROOF and self.accepted > since

    def forget(self, transaction_id: str) -> None:
        self._failed.pop(transaction_id, None)


class Attempt:
    """`send` makes a request from ids and events; `ending` is set when there is no time for pauses."""

    def __init__(
        self,
        batch: Batch,
        send: Callable[[list[str], list[bytes]], Outcome],
        suspects: Suspects,
        ending: threading.Event,
    ) -> None:
        self._batch = batch
        self._send = send
        self._suspects = suspects
        self._ending = ending
        self._accepted = suspects.accepted
        self._reasons: dict[str, str] = {}

    def run(self, ranges: Sequence[Range], *, patient: bool) -> Outcome | None:
        """Send the unsettled events. Returns why the rest could not be sent; None if nothing is left.

        Unless `patient`, one event is sent alone first, because the batch failed before.
        """
        outcome = self._run(ranges, patient=patient) if self._batch.open() else None
        self._quarantine()
        return outcome if self._batch.open() else None

    def _run(self, ranges: Sequence[Range], *, patient: bool) -> Outcome | None:
        if patient:
            outcome = self._pass(ranges)
            if outcome is None or not (outcome.for_content and self._suspects.found_one):
                return outcome
        if (outcome := self._pass([self._one()])) is not None:
            return outcome
        outcome = self._pass(ranges, halve=True)
        for pause in PAUSES:
            alone = self._batch.open()
            if outcome is None or not outcome.for_content or len(alone) > MOST_ALONE or self._ending.wait(pause):
                break
            outcome = self._pass([(position, position + 1) for position in alone])
        return outcome

    def _one(self) -> Range:
        """A random event, preferably one that is not a suspect."""
        positions = self._batch.open()
        others = [one for one in positions if not self._suspects.is_one(self._batch.id_at(one))]
        position = random.choice(others or positions)  # noqa: S311 - no secret
        return position, position + 1

    def _pass(self, ranges: Sequence[Range], *, halve: bool = False) -> Outcome | None:
        """Send these ranges; returns the last failure. `halve`: split failing ranges, so that all else is sent."""
        left, failed, in_a_row = list(ranges), None, 0
        while left:
            low, high = left.pop(0)
            positions = [position for position in self._batch.open() if low <= position < high]
            if not positions:
                continue
            ids = [self._batch.id_at(position) for position in positions]
            outcome = self._send(ids, self._batch.events(low, high))
            alone = len(positions) == 1
            if outcome.verdict is Verdict.ACCEPTED:
                self._batch.mark_delivered(low, high)
                in_a_row = 0
            elif alone and outcome.verdict is Verdict.REFUSED:
                log.error("moesif: the receiver refused event %s (%s)", one_line(ids[0], LONGEST_ID), outcome.reason)
                self._batch.mark_dropped(low, high, "refused")
            elif not alone and (outcome.verdict is Verdict.REFUSED or (halve and outcome.for_content)):
                middle = positions[len(positions) // 2]
                left[:0] = [(low, middle), (middle, high)]
            else:
                failed = outcome
                if alone and outcome.for_content:
                    self._suspects.failed_alone(ids[0], self._accepted)
                    self._reasons[ids[0]] = outcome.reason
                    in_a_row += 1
                if not alone or not outcome.for_content or in_a_row == MOST_ALONE:
                    break
        return failed

    def _quarantine(self) -> None:
        for position in self._batch.open():
            transaction_id = self._batch.id_at(position)
            if self._suspects.is_proven(transaction_id):
                self._suspects.forget(transaction_id)
                self._suspects.found_one = True
                self._batch.mark_moved(position, position + 1, quarantine_of(self._batch.destination))
                log.error(
                    "moesif: the receiver takes others, but not event %s (%s); "
                    "it is quarantined: moesif-proxy spool list",
                    one_line(transaction_id, LONGEST_ID),
                    self._reasons.get(transaction_id, "it kept failing"),
                )
