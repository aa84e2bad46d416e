"""Delivery as the proxy sees it: by a server in the delivery process, or in a thread.

Exchanges are gathered for `GATHER_INTERVAL` and handed over by the event loop in one non-blocking write. They are kept
until the server reports them as settled: if the process dies, a new one starts and gets the rest. An event that was
stored just before the crash is sent twice; Moesif removes duplicates by transaction id.

All state belongs to the event loop's thread, except the server's last report, which is replaced as a whole.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.api import Answered, Condition, SpoolCondition
from mitmproxy_moesif.delivery.keeper import Keeper
from mitmproxy_moesif.delivery.ledger import NOTHING, Account, Reading, Tally, added
from mitmproxy_moesif.delivery.protocol import Frame, Message
from mitmproxy_moesif.delivery.unsettled import Unsettled
from mitmproxy_moesif.delivery.watermark import Watermark
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.log import RateLimitedLog, describe, log
from mitmproxy_moesif.recent.notes import NO_EXCHANGES, Keep, Note, note_of

GATHER_INTERVAL = 0.02
CLOSE_SECONDS = 5.0
"""How long the delivery process may take to store the last exchanges and exit. It normally takes milliseconds, but the
machine may be busy, and what is not confirmed by then is reported as dropped."""

ANSWER_SECONDS = 1.0
"""How long to wait for a report that was requested; after that, the last report is used."""

KEPT_INSTANCES = 64

MOST_NOTES = 1000
"""Exchanges without an event that are reported in one message; further ones are not reported."""

MOST_QUESTIONS = 64
"""Queries about recent exchanges that may wait for an answer at a time."""


class DeliveryClient:
    """Takes exchanges and delivers them.

    `answered` is called with the headers of the receivers' responses, in another thread. `apart`: deliver in a separate
    process, if the platform allows one.
    """

    def __init__(
        self, folder: Path | None, max_bytes: int, answered: Answered, *, apart: bool = True, keep: Keep = NO_EXCHANGES
    ) -> None:
        spool = SpoolCondition(0, max_bytes, None) if folder is not None else None
        reading = replace(NOTHING, proxy=secrets.token_hex(8), folder=str(folder or ""))
        self._nothing = Condition(reading, {}, None, spool)
        self._folder = folder
        self._max_spool_bytes = max_bytes
        self._answered = answered
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.get_ident()
        self._keeper = Keeper(self, apart=apart)
        self._queue: list[tuple[Instance, Exchange]] = []
        self._queue_since: float | None = None
        self._due = False
        self._holding = False
        self._unsettled = Unsettled()
        self._keys: dict[Instance, int] = {}
        self._next_key = 0
        self._current: dict[str, Instance] = {}
        self._sampling: dict[str, bytes] = {}
        self._max_events = self._max_bytes = sys.maxsize
        self._entered = self._excluded = self._queue_bytes = 0
        self._turned_away: Counter[str] = Counter()
        self._elsewhere = 0
        self._offered: Counter[str] = Counter()
        self._missed: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[str] = Counter()
        self._watermark = Watermark()
        self._limited = RateLimitedLog()
        self._said = self._nothing
        self._released_for = self._said
        self._drain_until: float | None = None
        self._asking = threading.Lock()
        self._asked = 0
        self._told = threading.Event()
        self._drained = threading.Event()
        self._closed = threading.Event()
        self._closing = False
        self._keep = keep
        self.keeps_recent = keep.number > 0
        """Whether anybody wants to hear of exchanges without an event."""
        self._notes: list[Note] = []
        self._questions: dict[int, Future[bytes | None]] = {}
        self._question = 0

    # --- for the event loop's thread -----------------------------------------------------------------------------

    def start(self) -> None:
        """Call once, on the event loop. Exchanges put before wait until then. Does nothing once closed."""
        if not self._closing:
            self._loop = asyncio.get_running_loop()
            self._keeper.start(self._loop)

    def configure(self, instances: Sequence[Instance]) -> None:
        """Replace all configured instances; their settings apply from the next request on."""
        for instance in instances:
            self._max_events = instance.settings.event_queue_size
            self._max_bytes = instance.settings.queue_max_bytes
        self._current = {instance.destination: instance for instance in instances}
        if self._keeper.server is not None:
            self._hand_over()
            if len(self._keys) >= KEPT_INSTANCES and not self._unsettled:
                self._keys.clear()
                self._keeper.send("forget")
            self._say_current()

    def _say_current(self) -> None:
        self._keeper.send("configure", [self._key(instance) for instance in self._current.values()])

    def bound_spool(self, max_bytes: int) -> None:
        """Set the spool's limit of disk space, in bytes, from now on; stored events stay."""
        self._max_spool_bytes = max_bytes
        self._keeper.send("bound_spool", max_bytes)

    def put(self, instance: Instance, exchange: Exchange) -> str | None:
        """Hand over an exchange. Never waits. If there is no room, drops and counts it, and returns the cause."""
        cause = self._full(exchange.size)
        if instance.akto is not None:
            self._offered[instance.akto.name] += 1
        if cause is not None:
            self._turn_away(instance, cause)
            if self.keeps_recent or instance.settings.debug:
                self.note(note_of(instance, exchange, cause))
        else:
            self._entered += 1
            self._elsewhere += not instance.settings.keeps_events
            self._queue_bytes += exchange.size
            if not self._queue:
                self._queue_since = time.monotonic()
            self._queue.append((instance, exchange))
            self._hand_over_soon()
        self._watermark.tell(self._in_memory(), self._max_events, dropped=cause is not None)
        return cause

    def _turn_away(self, instance: Instance, cause: str) -> None:
        if instance.settings.keeps_events:
            self._turned_away[cause] += 1
        if instance.akto is not None:
            self._missed[instance.akto.name, cause] += 1

    def _hand_over_soon(self) -> None:
        if not self._due and self._loop is not None:
            self._due = True
            self._loop.call_later(GATHER_INTERVAL, self._hand_over_now)

    def exclude(self) -> None:
        """Count an exchange that the configuration excludes from capture."""
        self._excluded += 1

    def miss(self) -> None:
        """Count an exchange as dropped because Kong's configuration is unknown, so its instance is too."""
        self._turned_away["kong_unknown"] += 1

    def note(self, note: Note) -> None:
        """Report an exchange that has no event."""
        if len(self._notes) < MOST_NOTES:
            self._notes.append(note)
            self._hand_over_soon()

    def _full(self, size: int) -> str | None:
        if self._in_memory() >= self._max_events:
            return "queue_full"
        if self._said is not self._released_for:
            self._release()
        waiting = self._queue_bytes + self._unsettled.bytes + self._said.memory_bytes
        return "queue_bytes" if waiting + size > self._max_bytes else None

    def _in_memory(self) -> int:
        return in_memory(self._said.reading, self._entered)

    # --- handing over --------------------------------------------------------------------------------------------

    def _hand_over_now(self) -> None:
        self._due = False
        if self._keeper.server is not None:
            self._release()
            self._hand_over()
            self._hand_over_notes()

    def _hand_over_notes(self) -> None:
        notes, self._notes = self._notes, []
        if notes:
            self._keeper.send("not_captured", [tuple(note) for note in notes])

    def _hand_over(self) -> None:
        """Everything in the queue as one frame."""
        queue, since, self._queue, self._queue_bytes = self._queue, self._queue_since, [], 0
        if since is None:
            return
        self._queue_since = None
        try:
            self._enframe(queue, since)
        except Exception:  # noqa: BLE001 - one strange exchange; the others must not go with it
            for captured in queue:
                try:
                    self._enframe([captured], since)
                except Exception as error:  # noqa: BLE001
                    self._refuse(captured[0], error)

    def _enframe(self, captured: Sequence[tuple[Instance, Exchange]], since: float) -> None:
        exchanges = [(self._key(instance), protocol.from_exchange(exchange)) for instance, exchange in captured]
        self._send(self._unsettled.add(exchanges, since))

    def _send(self, frames: Sequence[Frame]) -> None:
        if not self._holding:
            for frame in frames:
                self._keeper.send_packed(frame.data)

    def _refuse(self, instance: Instance, error: Exception) -> None:
        self._entered -= 1
        self._elsewhere -= not instance.settings.keeps_events
        self._turn_away(instance, "internal_error")
        self._faults["handing over"] += 1
        self._limited.error(
            "handing over", "moesif: an exchange could not be handed over, it is dropped: %s", describe(error)
        )

    def _key(self, instance: Instance) -> int:
        """The key that represents an instance."""
        return self._keys.get(instance) or self._register(instance)

    def _register(self, instance: Instance) -> int:
        """Send an instance to the delivery process; returns the key that represents it from now on."""
        key = self._keys.get(instance)
        if key is None:
            self._next_key += 1
            key = self._keys[instance] = self._next_key
        hooks = instance.hooks.source if instance.hooks is not None else None
        self._keeper.send("instance", key, instance.name, protocol.from_settings(instance.settings), hooks)
        return key

    def _release(self) -> None:
        """Forget the exchanges that the delivery process has settled."""
        self._released_for = self._said
        self._unsettled.settle(self._said.reading.settled)

    # --- for the keeper ------------------------------------------------------------------------------------------

    def started(self) -> None:
        """Send the server everything that its predecessor knew, and the exchanges that were not settled.

        If the predecessor ended without a single report, this one gets no exchanges until it has reported. So if it
        dies early too, no exchange is the cause, and none can kill the proxy when a thread takes its place.
        """
        self._holding = self._keeper.last_ended_early
        folder = str(self._folder) if self._folder is not None else None
        self._keeper.send("open", folder, self._max_spool_bytes, asdict(self._said.reading), tuple(self._keep))
        for account, config in self._sampling.items():
            self._keeper.send("sample", account, config)
        for instance in self._keys:
            self._register(instance)
        self._say_current()
        if not self._holding:
            self._give()

    def _give(self) -> None:
        self._holding = False
        self._send(self._unsettled.for_successor())
        if self._drain_until is not None:
            self._keeper.send("drain", max(0.0, self._drain_until - time.monotonic()))
        self._hand_over()
        self._hand_over_notes()

    def _go_on(self) -> None:
        """The server has reported."""
        if self._holding:
            self._give()
        self._release()
        self._send(self._unsettled.next_suspect())

    def died(self, *, reported: bool) -> None:
        condition = self._said
        poison = self._unsettled.died(condition.reading.settled, reported=reported)
        if poison is not None:
            instance = next(one for one, key in self._keys.items() if key == poison.only_key)
            self._said = replace(condition, reading=self._without(poison.last, instance, condition.reading))
            log.error("moesif: an event that no delivery process survived is dropped, and counted")

    def _without(self, poison: int, instance: Instance, reading: Reading) -> Reading:
        """The reading with the poison event counted as dropped."""
        lossy, kept = dict(reading.lossy), int(instance.settings.keeps_events)
        if (akto := instance.akto) is not None:
            lossy[akto.name] = lossy.get(akto.name, Tally()) + Tally(1, 0, {"helper_died": 1})
        return replace(
            reading,
            captured=reading.captured + kept,
            dropped=dict(Counter(reading.dropped) + Counter({"helper_died": kept})),
            elsewhere=reading.elsewhere + 1 - kept,
            lossy=lossy,
            settled=poison,
            entered=poison,
        )

    def heard(self, message: Message) -> None:
        name, *arguments = message
        if name in ("report", "closed"):
            self._said = protocol.to_condition(arguments[0])
            if name == "closed":
                self._closed.set()
            if arguments[1:] == [self._asked]:
                self._told.set()
            self._in_loop(self._go_on)
        elif name == "log":
            log.log(*arguments)
        elif name == "answered":
            self._answered(*arguments)
        elif name == "drained":
            self._drained.set()
        elif name == "recent":
            number, answer = arguments
            if (question := self._questions.pop(number, None)) is not None:
                question.set_result(answer)

    def ended(self) -> None:
        """Its spool file says what it did after its last report. After `closed` it has done nothing more."""
        self._leave_unanswered()
        if self._closed.is_set():
            return
        reading, oldest_at = self._said.reading, self._said.oldest_at
        account, found = self._last_account(self._said.spool, reading)
        reading = reading.last("helper_died", account, found)
        self._said = replace(self._nothing, reading=reading, oldest_at=oldest_at if reading.waiting else None)
        if self._closing:
            self._closed.set()

    def _last_account(self, spool: SpoolCondition | None, told: Reading) -> tuple[Account | None, Mapping[str, int]]:
        """The account in the spool file of the server that ended, and the number of events in its files, by name.

        If another process has just taken a file over, the number known last counts: the next server gives it up.
        """
        if self._folder is None or spool is None or spool.own_file is None:
            return None, {}
        from mitmproxy_moesif.delivery.spool.file import look_into  # loads SQLite: not while the process lives

        account, events = look_into(self._folder / spool.own_file)
        if account is None or events is None:
            return None, {}
        looks = {name: look_into(self._folder / name)[1] for name in account.files}
        known = {name: one.events for name, one in account.adopted.items()} | told.spools
        found = {name: count if count is not None else known.get(name, 0) for name, count in looks.items()}
        return account, {**account.past, **found, spool.own_file: events}

    # --- from any thread -----------------------------------------------------------------------------------------

    def sample(self, account: str, config: bytes) -> None:
        """Set Moesif's configuration for this account (JSON), which contains the sampling rates."""
        self._in_loop(self._sample, account, config)

    def _sample(self, account: str, config: bytes) -> None:
        self._sampling[account] = config
        self._keeper.send("sample", account, config)

    def fault(self, kind: str) -> None:
        """Count an internal fault."""
        self._faults[kind] += 1

    def reading(self) -> Reading:
        """Where every event is."""
        return self._condition().reading

    def condition(self) -> Condition:
        """The current condition. The event loop's thread does not wait for a new report and gets the last one."""
        if threading.get_ident() != self._thread and self._keeper.server is not None and not self._closing:
            with self._asking:
                self._asked += 1
                self._told.clear()
                self._in_loop(self._ask, "report", self._asked)
                self._told.wait(ANSWER_SECONDS)
        return self._condition()

    def _condition(self) -> Condition:
        """Other threads write concurrently, so each value is read once: first the last report, then newer counts."""
        condition = self._said
        reading, turned_away = condition.reading, self._turned_away.copy()
        entered, elsewhere = self._entered, self._elsewhere
        oldest = [at for at in (condition.oldest_at, self._unsettled.since, self._queue_since) if at is not None]
        now = replace(
            reading,
            captured=entered - elsewhere + turned_away.total() + reading.recovered,
            waiting_in_memory=in_memory(reading, entered) - (elsewhere - reading.elsewhere),
            dropped=dict(Counter(reading.dropped) + turned_away),
            faults=dict(Counter(reading.faults) + self._faults.copy()),
            excluded=self._excluded,
            entered=entered,
            elsewhere=elsewhere,
            lossy=self._lossy(reading),
        )
        oldest_at = min(oldest, default=None) if now.waiting else None
        return replace(condition, reading=now, oldest_at=oldest_at, trouble=self._keeper.trouble)

    def _lossy(self, reading: Reading) -> dict[str, Tally]:
        """Records that were not offered to the server yet count as waiting."""
        missed, offered = self._missed.copy(), self._offered.copy()
        now = {name: replace(reading.lossy.get(name, Tally()), captured=count) for name, count in offered.items()}
        return added([now, *({name: Tally(0, 0, {cause: count})} for (name, cause), count in missed.items())])

    def recent(self, query: Mapping[str, Any]) -> Future[bytes | None]:
        """JSON as from `RecentExchanges.answer`; None if nothing is kept or there is no answer."""
        question: Future[bytes | None] = Future()
        question.set_running_or_notify_cancel()  # it can no longer be cancelled: a late answer is just ignored
        if self.keeps_recent and not self._closing and len(self._questions) < MOST_QUESTIONS:
            self._in_loop(self._ask_recent, question, dict(query))
        else:
            question.set_result(None)
        return question

    def _ask_recent(self, question: Future[bytes | None], query: dict[str, Any]) -> None:
        self._question += 1
        self._questions[self._question] = question
        self._ask("recent", self._question, query)
        if self._keeper.server is None:
            self._leave_unanswered()

    def _leave_unanswered(self) -> None:
        with suppress(KeyError):  # another thread may answer the last one
            while True:
                self._questions.popitem()[1].set_result(None)

    def drain(self, seconds: float) -> None:
        """Send waiting events for at most `seconds`. `put` still works meanwhile. Not for the event loop's thread."""
        self._drain_until = time.monotonic() + seconds
        self._in_loop(self._say_drain, seconds)
        self._drained.wait(seconds)

    def hurry(self) -> None:
        """Try to send waiting events now, regardless of any backoff."""
        self._in_loop(self._ask, "hurry")

    def abort(self) -> None:
        """End a running `drain` at once; events on disk stay there."""
        self._drained.set()
        self._in_loop(self._ask, "abort")

    def close(self) -> Reading:
        """Store the last exchanges and end, within `CLOSE_SECONDS`. Returns the final counts.

        Events left on disk are sent by the next process; events left only in memory are counted as dropped.
        """
        deadline = time.monotonic() + CLOSE_SECONDS
        self._in_loop(self._say_close)
        if (server := self._keeper.server) is not None:
            if threading.get_ident() == self._thread:
                server.flush(CLOSE_SECONDS)
            self._closed.wait(max(0.0, deadline - time.monotonic()))
            server.wait(max(0.0, deadline - time.monotonic()))
        reading = self.reading()
        dropped = Counter(reading.dropped) + Counter({"shutdown": reading.waiting_in_memory})
        lossy = {name: tally.last("shutdown") for name, tally in reading.lossy.items()}
        return replace(reading, waiting_in_memory=0, dropped=dict(dropped), lossy=lossy)

    def _ask(self, *message: Any) -> None:
        if self._keeper.server is not None:
            self._hand_over()
            self._hand_over_notes()
            self._keeper.send(*message)

    def _say_drain(self, seconds: float) -> None:
        if self._holding:
            return  # the command is sent together with the exchanges
        self._send(self._unsettled.leave_crash_loop())
        self._ask("drain", seconds)

    def _say_close(self) -> None:
        if self._holding:
            self._give()
        self._send(self._unsettled.leave_crash_loop())
        self._ask("close")
        self._closing = True
        self._keeper.stop()

    def _in_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._loop is None or threading.get_ident() == self._thread:
            call(*arguments)
        else:
            with suppress(RuntimeError):  # the loop is closed: the proxy has ended
                self._loop.call_soon_threadsafe(call, *arguments)


def in_memory(reading: Reading, entered: int) -> int:
    """Of `entered` exchanges, how many wait in memory, here or at the server."""
    return entered - reading.settled + reading.waiting_in_memory
