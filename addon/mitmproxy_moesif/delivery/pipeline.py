"""Delivery as a whole: door -> builder -> store -> senders.

`put` is called from the event loop's thread and never waits. Everything else happens in threads: one builder, one
keeper of the store, and one sender for each account that events go to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mitmproxy_moesif.delivery.builder import Builder, Make
from mitmproxy_moesif.delivery.door import Door
from mitmproxy_moesif.delivery.file import BesideReceiver, FileReceiver
from mitmproxy_moesif.delivery.keeper import Keeper
from mitmproxy_moesif.delivery.ledger import Ledger, Reading
from mitmproxy_moesif.delivery.moesif import AnswerHeaders, MoesifReceiver
from mitmproxy_moesif.delivery.receiver import Receiver
from mitmproxy_moesif.delivery.sender import Health, Sender, SenderLimits
from mitmproxy_moesif.delivery.store import Store
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.instance import Instance
from mitmproxy_moesif.log import log
from mitmproxy_moesif.settings import Settings

CLOSE_SECONDS = 1.0
"""What building and storing the last exchanges may take."""


type Answered = Callable[[str, Mapping[str, str]], None]
"""Told of each answer of a receiver: the destination, and the answer's headers."""


class Pipeline:
    """Takes exchanges and delivers them. `start` once, `configure` at any time, then `drain` and `close`."""

    def __init__(self, folder: Path | None, max_bytes: int, make: Make, answered: Answered) -> None:
        self.ledger = Ledger()
        self._answered = answered
        self.store = Store(self.ledger, folder, max_bytes)
        self._door = Door(self.ledger, lambda: self.store.memory_bytes)
        self._builder = Builder(self._door, self.store, self.ledger, make, self._notify)
        self._keeper = Keeper(self.store, self.ledger, self._notify)
        self._senders: dict[str, Sender] = {}
        self._aborted = threading.Event()
        self._closed = False
        self._nearly_full = False

    def start(self) -> None:
        """Does nothing once closed: a proxy may end before it was up."""
        if self._closed:
            return
        self.store.open()
        self._builder.start()
        self._keeper.start()

    def configure(self, instance: Instance) -> None:
        """Use these settings for this instance's destination from the next request on."""
        settings = instance.settings
        self._door.max_events = settings.event_queue_size
        self._door.max_bytes = settings.queue_max_bytes
        limits = sender_limits(settings)
        sender = self._senders.get(instance.destination)
        if sender is None:
            sender = Sender(instance.destination, self._receiver(instance), self.store, self.ledger, limits)
            self._senders[instance.destination] = sender
            sender.start()
        else:
            sender.receiver, sender.limits = self._receiver(instance), limits
        sender.notify()

    def _receiver(self, instance: Instance) -> Receiver:
        destination = instance.destination
        return receiver_for(instance.settings, lambda answer: self._answered(destination, answer.headers))

    def put(self, instance: Instance, exchange: Exchange) -> None:
        cause = self._door.put(instance, exchange)
        self._tell_level(cause)

    def _tell_level(self, cause: str | None) -> None:
        """Say once that the memory fills up, and once that it is fine again."""
        waiting, most = self.ledger.in_memory(), self._door.max_events
        if not self._nearly_full and (cause is not None or waiting * 5 > most * 4):
            self._nearly_full = True
            log.warning("moesif: the queue is over 80 % full; past its limits new events are dropped, and counted")
        elif self._nearly_full and waiting * 2 < most and cause is None:
            self._nearly_full = False
            log.info("moesif: the queue has room again")

    def _notify(self, destination: str) -> None:
        if (sender := self._senders.get(destination)) is not None:
            sender.notify()

    def health(self) -> dict[str, Health]:
        """How the receiver of each destination does."""
        return {name: sender.health for name, sender in list(self._senders.items())}

    def reading(self) -> Reading:
        return self.ledger.read()

    def drain(self, seconds: float) -> None:
        """Send what waits, for at most `seconds`. What is put meanwhile is still taken."""
        deadline = time.monotonic() + seconds
        self._keeper.stop()
        self._builder.flush(seconds)
        for sender in self._senders.values():
            sender.stop(deadline)
        for sender in self._senders.values():
            while not self._aborted.is_set() and time.monotonic() < deadline:
                if sender.join(time.monotonic() + 0.05):
                    break

    def close(self) -> Reading:
        """Store what was put last and close the files; takes no more than a moment. Returns the end state.

        What is left on disk is sent by the next process; what is left in memory alone is counted as dropped.
        """
        self._closed = True
        self._builder.stop()
        self._builder.join(time.monotonic() + CLOSE_SECONDS)
        self.store.close()
        self.ledger.abandon("shutdown")
        return self.reading()

    def abort(self) -> None:
        """End a `drain` under way at once; what is on disk stays there."""
        self._aborted.set()


def receiver_for(settings: Settings, on_answer: AnswerHeaders) -> Receiver:
    """Moesif, a file, or Moesif with a file beside it."""
    file = FileReceiver(settings.sink_file) if settings.sink_file else None
    if not settings.application_id.get_secret_value():
        assert file is not None, "checked when the settings were read"
        return file
    moesif = MoesifReceiver(settings, on_answer)
    return BesideReceiver(moesif, file) if file is not None else moesif


def sender_limits(settings: Settings) -> SenderLimits:
    return SenderLimits(
        batch_size=settings.batch_size,
        batch_max_bytes=settings.batch_max_bytes,
        flush_interval=settings.flush_interval / 1000,
        turn=settings.max_callback_time_spent / 1000,
        debug=settings.debug,
    )
