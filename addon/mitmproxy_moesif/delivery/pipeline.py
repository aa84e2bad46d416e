"""Delivery as a whole: builder -> store -> senders.

The threads: one builder, one for the store's maintenance, and one sender for each queue of events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence, Set
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.config.destination import heir_of, is_quarantine
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.delivery.api import Answered, Condition, SpoolCondition, Unsent
from mitmproxy_moesif.delivery.beside import Beside
from mitmproxy_moesif.delivery.builder import Builder, Captured, Make
from mitmproxy_moesif.delivery.ledger import NOTHING, Ledger, Reading
from mitmproxy_moesif.delivery.receivers.base import Receiver
from mitmproxy_moesif.delivery.receivers.kafka import KafkaReceiver
from mitmproxy_moesif.delivery.receivers.moesif import AnswerHeaders, MoesifReceiver
from mitmproxy_moesif.delivery.receivers.ndjson import BesideReceiver, FileReceiver
from mitmproxy_moesif.delivery.sender import Sender, SenderLimits
from mitmproxy_moesif.delivery.spool.maintenance import Maintenance
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.log import log
from mitmproxy_moesif.recent.store import RecentExchanges

CLOSE_SECONDS = 3.0
"""How long building and storing the last exchanges may take."""

KAFKA_BATCH = 1000
"""Minimum batch size for Kafka: Moesif's limit for a request does not apply."""

REQUESTS = 16
"""Concurrent requests. Not for a file, which only one thread writes, nor for Kafka, whose library batches itself."""

AT_ONCE = 0.0
"""A deadline that has passed."""

MOST_FORMER = 64
"""Instances kept that are no longer configured; events may still arrive from exchanges that have not ended."""


class Pipeline:
    """Fed by a `DeliveryClient`, which limits what waits. `apart`: in its own process; `past`: predecessor's counts."""

    def __init__(
        self,
        folder: Path | None,
        max_bytes: int,
        make: Make,
        answered: Answered,
        *,
        apart: bool,
        past: Reading = NOTHING,
        recent: RecentExchanges | None = None,
    ) -> None:
        self.ledger = Ledger(past)
        self._answered = answered
        self._recent = recent or RecentExchanges()
        self.store = Store(self.ledger, folder, max_bytes, moved=self._recent.moved)
        self._beside = Beside(self.ledger)
        self._builder = Builder(
            self.store, self.ledger, make, self._notify, self._beside, apart=apart, recent=self._recent
        )
        self._maintenance = Maintenance(self.store, self.ledger, self._notify)
        self._configured: dict[str, Instance] = {}
        self._akto: Set[AktoTarget] = frozenset()
        self._former: dict[str, Instance] = {}
        self._senders: dict[str, Sender] = {}
        self._sent_by: dict[str, str] = {}
        self._told: set[str] = set()
        self._arranging = threading.Lock()
        self._aborted = threading.Event()

    def start(self) -> None:
        self.store.open()
        self._builder.start()
        self._maintenance.start()

    def configure(self, instances: Sequence[Instance]) -> None:
        """Replace all configured instances.

        Events of an instance that is no longer configured are still sent, for as long as its receiver accepts them.
        """
        with self._arranging:
            before = {**self._former, **self._configured}
            self._configured = {one.destination: one for one in instances if one.settings.keeps_events}
            self._akto = {one.akto for one in instances if one.akto is not None}
            former = [(name, one) for name, one in before.items() if heir_of(name, list(self._configured)) is None]
            self._former = dict(former[-MOST_FORMER:])
            for destination in {*self._configured, *self._senders, *self.store.destinations()}:
                self._arrange(destination)

    def _heir(self, destination: str) -> str | None:
        return heir_of(destination, list(self._configured)) or heir_of(destination, list(self._former))

    def _arrange(self, destination: str) -> None:
        """Give this queue a sender with the settings that apply to it, or none."""
        sender = self._senders.get(destination)
        if sender is not None and sender.health.down_since is not None:
            self._former.pop(self._sent_by[destination], None)
        heir = self._heir(destination)
        wanted = destination in self._configured or self.store.waits(destination)
        if sender is not None and (heir != self._sent_by[destination] or not wanted):
            self._senders.pop(destination).stop(AT_ONCE)
            sender = None
        if heir is not None and wanted:
            self._have_sent(destination, heir, sender)
        elif heir is None and self._configured:
            self.store.demote(destination)  # the operator's decisions apply only to the backlog
            self._tell_unsent(destination)

    def _have_sent(self, destination: str, heir: str, sender: Sender | None) -> None:
        instance = self._configured.get(heir) or self._former[heir]
        make, limits = partial(self._receiver, instance), sender_limits(instance.settings)
        if sender is None:
            sender = Sender(destination, make, self.store, self.ledger, limits, self._recent.moved, self._notify)
            self._senders[destination], self._sent_by[destination] = sender, heir
            self._told.discard(destination)
            sender.start()
        else:
            sender.configure(make, limits)
        sender.notify()

    def _tell_unsent(self, destination: str) -> None:
        """Log once that nobody sends these events."""
        events, since = self.store.contents().get(destination, (0, 0.0))
        if not events or destination in self._told:
            return
        self._told.add(destination)
        log.warning(
            "moesif: nobody sends %s that came since %s: %s is %s; see unsent in /status, or moesif-proxy spool list",
            number_of(events, "event"),
            datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
            destination,
            state_of(destination),
        )

    def bound_spool(self, max_bytes: int) -> None:
        self.store.spools.bound(max_bytes)

    def _receiver(self, instance: Instance) -> Receiver:
        account = instance.account
        return receiver_for(instance.settings, lambda answer: self._answered(account, answer.headers))

    def look(self, seconds: float) -> None:
        """Wait until the files of ended processes are taken over, at most `seconds`."""
        self._maintenance.looked.wait(seconds)

    def put(self, *captured: Captured) -> None:
        self._builder.put(*captured)

    def fault(self, kind: str) -> None:
        self.ledger.fault(kind)

    def _notify(self, destination: str) -> None:
        with self._arranging:
            sender = self._senders.get(destination)
            if sender is None or (sender.health.down_since is not None and self._sent_by[destination] in self._former):
                self._arrange(destination)
            else:
                sender.notify()

    def reading(self) -> Reading:
        return self.ledger.read()

    def condition(self) -> Condition:
        store, spools, reading = self.store, self.store.spools, self.reading()
        contents = store.contents()
        spool = None
        if spools.folder is not None:
            spool = SpoolCondition(spools.disk_bytes, spools.max_bytes, spools.trouble, spools.own_file)
        senders = {
            name: sender
            for name, sender in self._senders.copy().items()
            if name in self._configured or name in contents
        }
        age = store.oldest_age(senders) if reading.waiting else None
        return Condition(
            reading=reading,
            health={name: sender.health for name, sender in senders.items()} | self._beside.health(self._akto),
            oldest_at=time.monotonic() - age if age is not None else None,
            spool=spool,
            memory_bytes=store.memory_bytes,
            unsent={
                name: Unsent(events, since, state_of(name))
                for name, (events, since) in contents.items()
                if name not in senders and self._heir(name) is None
            },
        )

    def flush(self, seconds: float) -> None:
        """Wait until everything put so far is stored, at most `seconds`."""
        self._builder.flush(seconds)

    def hurry(self) -> None:
        """Try to send waiting events now."""
        for sender in dict(self._senders).values():
            sender.hurry()

    def drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._maintenance.stop()
        self._builder.flush(seconds)
        senders = list(self._senders.values())
        for sender in senders:
            sender.stop(deadline)
        for sender in senders:
            while not self._aborted.is_set() and time.monotonic() < deadline:
                if sender.join(time.monotonic() + 0.05):
                    break
        self._beside.drain(deadline if not self._aborted.is_set() else 0.0)

    def close(self, *, keep: bool = False) -> None:
        """`keep`: leave the spool file, with its account, even if nothing waits in it."""
        self._builder.stop()
        self._builder.join(time.monotonic() + CLOSE_SECONDS)
        trouble = self.store.spools.trouble
        self._beside.close()
        self.store.close(keep=keep)
        if trouble is not None and (lost := self.reading().waiting_in_memory):
            why = f"{trouble}; have the disk take events again before the next end, or name another spool_dir"
            log.error("moesif: dropped at the end: %s, which the disk does not take: %s", number_of(lost, "event"), why)
        self.ledger.abandon("shutdown")

    def abort(self) -> None:
        self._aborted.set()


def state_of(destination: str) -> Literal["quarantined", "not configured"]:
    """Why nobody sends the events waiting for this destination."""
    return "quarantined" if is_quarantine(destination) else "not configured"


def receiver_for(settings: Settings, on_answer: AnswerHeaders) -> Receiver:
    """Kafka, else Moesif, plus the file if one is set; without either, only the file."""
    file = FileReceiver(settings.sink_file) if settings.sink_file else None
    first: Receiver
    if settings.kafka_brokers:
        first = KafkaReceiver(settings)
    elif settings.application_id.get_secret_value():
        first = MoesifReceiver(settings, on_answer)
    else:
        assert file is not None, "checked when the settings were read"
        return file
    return BesideReceiver(first, file) if file is not None else first


def sender_limits(settings: Settings) -> SenderLimits:
    return SenderLimits(
        batch_size=max(settings.batch_size, KAFKA_BATCH) if settings.kafka_brokers else settings.batch_size,
        batch_max_bytes=settings.batch_max_bytes,
        flush_interval=settings.flush_interval / 1000,
        turn=settings.max_callback_time_spent / 1000,
        requests=1 if settings.sink_file or settings.kafka_brokers else REQUESTS,
        keepalive=settings.keepalive / 1000,
        probes=bool(settings.kafka_brokers),
        debug=settings.debug,
    )
