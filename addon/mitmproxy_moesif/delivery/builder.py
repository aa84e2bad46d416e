"""The thread that turns exchanges into encoded events and puts them into the store.

If it shares the proxy's interpreter, it yields after every large event and every few small ones, about four times per
millisecond: a long run would raise the traffic's tail latency. Each yield costs some 15 microseconds.

An event is on disk within 100 ms of its exchange's end: exchanges are gathered for 20 ms in the proxy, and the first
event built waits `COMMIT_INTERVAL` for others, since a transaction costs as much as building many events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery.batch import OLDEST
from mitmproxy_moesif.delivery.beside import Beside
from mitmproxy_moesif.delivery.ledger import Ledger, Settlement
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import Finished, NotSent
from mitmproxy_moesif.log import RateLimitedLog, describe
from mitmproxy_moesif.recent.store import RecentExchanges

COMMIT_INTERVAL = 0.06
YIELD_BYTES = 20_000
CHUNK_EVENTS = 25
CHUNK_BYTES = 1_000_000


type Make = Callable[[Exchange, Instance, Finished | None], bytes | NotSent]


class Captured(NamedTuple):
    """An exchange and its number. `content` is None if the exchange was handed over but cannot be decoded."""

    number: int
    content: tuple[Instance, Exchange] | None

    @property
    def size(self) -> int:
        return self.content[1].size if self.content is not None else 0


class Builder:
    """Builds and stores the exchanges that are put, until `stop`.

    `make` returns an exchange's encoded event, or why there is none; `stored` is called with a destination that has
    something new to send; `beside` makes and sends records for receivers that may lose them. `apart`: in the delivery
    process, where nothing else needs the interpreter.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        make: Make,
        stored: Callable[[str], None],
        beside: Beside,
        *,
        apart: bool,
        recent: RecentExchanges,
    ) -> None:
        self._apart = apart
        self._recent = recent
        self._queue: SimpleQueue[Sequence[Captured] | threading.Event | None] = SimpleQueue()
        self._store = store
        self._ledger = ledger
        self._make = make
        self._stored = stored
        self._beside = beside
        self._limited = RateLimitedLog()
        self._built: dict[str, list[tuple[str, bytes, float]]] = {}
        self._settlement = Settlement()
        self._since = 0.0
        self._bytes = 0
        self._since_yield = 0
        self._flushing: list[threading.Event] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="moesif-build", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, *captured: Captured) -> None:
        """Add exchanges, in ascending order of their numbers."""
        self._queue.put(captured)

    def flush(self, seconds: float) -> None:
        """Wait until everything put so far is stored, at most `seconds`."""
        flushed = threading.Event()
        self._queue.put(flushed)
        if self._thread.is_alive():
            flushed.wait(seconds)

    def stop(self) -> None:
        """Build and store everything put so far, then end."""
        self._queue.put(None)

    def join(self, deadline: float) -> bool:
        """Whether the thread ended by `deadline` (monotonic), or was never started."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - the thread never dies silently, and never dies of one error
                self._ledger.fault("builder")
                self._limited.error("builder", "moesif: unexpected while storing events: %s", describe(error))

    def _turn(self) -> None:
        """Build everything that is queued, and store the built events when they are due."""
        try:
            with suppress(Empty):
                self._take(self._queue.get(timeout=self._patience()))
                while True:
                    self._take(self._queue.get_nowait())
            if self._is_due() or self._flushing or self._stopped:
                self._commit()
        finally:
            while self._flushing:
                self._flushing.pop().set()

    def _patience(self) -> float | None:
        """Seconds until the built events are due to be stored; None if there are none."""
        if not self._settlement.number:
            return None
        return max(0.0, self._since + COMMIT_INTERVAL - time.monotonic())

    def _take(self, item: Sequence[Captured] | threading.Event | None) -> None:
        if item is None:
            self._stopped = True
        elif isinstance(item, threading.Event):
            self._flushing.append(item)
        else:
            for captured in item:
                self._handle(captured)

    def _handle(self, captured: Captured) -> None:
        if not self._settlement.number:
            self._since = time.monotonic()
        self._settlement.number = captured.number
        self._settle(captured, self._build(captured))
        if self._is_due():
            self._commit()
        self._since_yield += captured.size
        if self._since_yield > YIELD_BYTES and not self._apart:
            self._since_yield = 0
            time.sleep(0)

    def _settle(self, captured: Captured, cause: str | None) -> None:
        """Count an exchange as built, or as dropped for `cause`."""
        settlement = self._settlement
        if captured.content is None:
            settlement.dropped["internal_error"] += 1
            return
        instance, exchange = captured.content
        if not instance.settings.keeps_events:
            settlement.elsewhere += 1
        elif cause is not None:
            settlement.dropped[cause] += 1
        if cause is not None:
            self._recent.dropped(instance, exchange, cause)
        self._beside.built(instance, cause, settlement.offered)

    def _is_due(self) -> bool:
        return self._bytes >= CHUNK_BYTES or time.monotonic() - self._since >= COMMIT_INTERVAL

    def _build(self, captured: Captured) -> str | None:
        """Build an event and keep it for the next commit; returns the cause if it is dropped."""
        if captured.content is None:
            return None
        instance, exchange = captured.content
        finished = self._beside.finisher(instance, exchange)
        if exchange.started < time.time() - OLDEST:
            return "too_old"
        try:
            encoded = self._make(exchange, instance, finished)
        except Exception as error:  # noqa: BLE001 - one bad exchange must not end the thread
            self._ledger.fault("build")
            self._limited.error("build", "moesif: an event could not be built, it is dropped: %s", describe(error))
            return "internal_error"
        if isinstance(encoded, NotSent):
            return encoded.value
        self._bytes += len(encoded)
        if not instance.settings.keeps_events:
            return None
        self._built.setdefault(instance.destination, []).append((exchange.transaction_id, encoded, exchange.started))
        return None

    def _commit(self) -> None:
        """Store the built events, which settles all exchanges taken so far."""
        if not self._settlement.number:
            return
        settlement, self._settlement = self._settlement, Settlement()
        built, self._built, self._bytes = self._built, {}, 0
        chunks = [chunk for destination, events in built.items() for chunk in _chunks(destination, events)]
        self._store.put(chunks, settlement)
        self._beside.settled()
        for destination in built:
            self._stored(destination)


def _chunks(destination: str, events: list[tuple[str, bytes, float]]) -> list[Chunk]:
    """Groups of at most `CHUNK_EVENTS` events and about `CHUNK_BYTES`, in the order they were captured."""
    groups: list[list[tuple[str, bytes, float]]] = [[]]
    size = 0
    for event in events:
        if groups[-1] and (len(groups[-1]) >= CHUNK_EVENTS or size + len(event[1]) > CHUNK_BYTES):
            groups.append([])
            size = 0
        groups[-1].append(event)
        size += len(event[1])
    return [
        Chunk(
            destination,
            min(started for _, _, started in group),
            tuple(transaction_id for transaction_id, _, _ in group),
            tuple(encoded for _, encoded, _ in group),
        )
        for group in groups
        if group
    ]
