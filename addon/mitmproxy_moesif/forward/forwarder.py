"""One member of the consumer group: reads records, sends them with the proxy's sender, and commits what is done.

One thread consumes and commits, the sender's thread sends. A record is done once the receiver has accepted it, it was
dropped and counted, or it is in the dead-letter topic. An offset is committed when all records before it are done. So
nothing is lost whenever this process ends; uncommitted records are read again, and the receiver detects duplicates by
transaction id.

While the receiver is down, partitions are paused; the member keeps polling to stay in the group.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mitmproxy_moesif.config.destination import KAFKA, application_of, destination_of
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.api import Condition
from mitmproxy_moesif.delivery.batch import Part
from mitmproxy_moesif.delivery.ledger import Ledger, Reading, Settlement
from mitmproxy_moesif.delivery.pipeline import receiver_for, sender_limits
from mitmproxy_moesif.delivery.receivers.kafka import REASONS, configuration, made
from mitmproxy_moesif.delivery.sender import Sender
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.forward.offsets import Offsets
from mitmproxy_moesif.forward.records import DeadLetters, NotEventError, Record, read
from mitmproxy_moesif.log import RateLimitedLog, log

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

WINDOW_BATCHES = 20
"""At most this many batches, plus `READ_AT_ONCE` records, are read ahead."""

POLL_SECONDS = 0.1
FULL_SECONDS = 0.005
READ_AT_ONCE = 500
COMMIT_SECONDS = 1.0
DEAD_LETTER_PAUSE = 1.0
ANSWER_SECONDS = 1.0
"""A broker should have answered within this time at start."""

LEAVE_SECONDS = 3.0
"""At the end, the broker should have accepted the last offsets and released the member within this time."""

REBALANCE = frozenset({"REBALANCE_IN_PROGRESS", "ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID"})
"""Errors that a member of a group gets while partitions are reassigned."""

DEFAULTS = {"session.timeout.ms": 10_000, "partition.assignment.strategy": "roundrobin"}
OURS = {"enable.auto.commit": False, "auto.offset.reset": "earliest"}


class Forwarder:
    """Call `run`; it returns after `stop`. Raises `ValueError` with one line for invalid Kafka settings."""

    def __init__(self, settings: Settings, group: str) -> None:
        to = settings.model_copy(update={"kafka_brokers": ()})
        self._topic = settings.kafka_topic
        self._seconds = settings.shutdown_timeout / 1000
        self._destination = destination_of(to)
        self._applications = frozenset({application_of(to).encode(), KAFKA.encode()})
        self._limits = sender_limits(to)
        self._max_bytes = settings.queue_max_bytes
        self._ledger = Ledger()
        self._offsets = Offsets()
        self._store = _TrackedStore(self._ledger, self._offsets)
        make_receiver = partial(receiver_for, to, lambda _answer: None)
        self._sender = Sender(self._destination, make_receiver, self._store, self._ledger, self._limits)
        wanted = configuration(settings)
        self._dead_letters = DeadLetters(self._topic, wanted)
        self._consumer: Consumer = made(
            "Consumer", {**DEFAULTS, **wanted, **OURS, "group.id": group, "error_cb": self._tell}
        )
        self._taken = 0
        self._paused: bool | None = False
        self._commit_at = 0.0
        self._stopped = threading.Event()
        self._stopped_at = math.inf
        self._limited = RateLimitedLog()

    def stop(self, *, at_once: bool = False) -> None:
        """Send what was read, for at most `shutdown_timeout`, then end; `at_once`: stop sending."""
        if at_once:
            self._seconds = 0.0
        self._stopped_at = min(self._stopped_at, time.monotonic())
        self._stopped.set()

    def condition(self) -> Condition:
        age = self._store.oldest_age([self._destination])
        oldest = time.monotonic() - age if age is not None else None
        health = {self._destination: self._sender.health}
        return Condition(self._ledger.read(), health, oldest, None, self._store.memory_bytes)

    def run(self) -> Reading:
        """Run until `stop`; then wait for brokers at most `LEAVE_SECONDS`, since librdkafka has no limit."""
        consuming: Future[None] = Future()
        threading.Thread(target=self._consume, args=(consuming,), name="moesif-consume", daemon=True).start()
        while not consuming.done() and time.monotonic() < self._stopped_at + self._seconds + LEAVE_SECONDS:
            wait([consuming], POLL_SECONDS)
        if consuming.done():
            consuming.result()
        else:
            log.warning("moesif: no broker accepted the last offsets in time: some events may be sent again")
        return self._ledger.read()

    def _consume(self, ended: Future[None]) -> None:
        try:
            self._until_stopped()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            ended.set_exception(error)
        else:
            ended.set_result(None)

    def _until_stopped(self) -> None:
        self._sender.start()
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        try:
            self._tell_of_brokers()
            with suppress(_UnburiedError):
                while not self._stopped.is_set():
                    self._turn()
        finally:
            self._close()

    def _tell_of_brokers(self) -> None:
        """Warn at once if no broker answers: librdkafka tells a consumer much later, if at all."""
        from confluent_kafka import KafkaException

        try:
            self._consumer.list_topics(self._topic, ANSWER_SECONDS)
        except KafkaException as error:
            self._tell(error.args[0])

    def _turn(self) -> None:
        self._pace()
        if self._full() and not self._paused:
            self._stopped.wait(FULL_SECONDS)
        else:
            messages = self._consumer.consume(READ_AT_ONCE, POLL_SECONDS)
            self._take([message for message in messages if self._is_record(message)])
        if time.monotonic() >= self._commit_at:
            self._commit()

    def _full(self) -> bool:
        """Whether enough records are waiting; more are read once some are sent."""
        full = self._ledger.read().waiting >= WINDOW_BATCHES * self._limits.batch_size
        return full or self._store.memory_bytes >= self._max_bytes

    def _pace(self) -> None:
        """Pause all partitions while the receiver is down. After resuming, records the client had read ahead are read
        again."""
        paused = self._sender.health.down_since is not None
        if paused is not self._paused:
            self._paused = paused
            change = self._consumer.pause if paused else self._consumer.resume
            change(self._consumer.assignment())

    def _is_record(self, message: Message) -> bool:
        if (error := message.error()) is not None:
            self._tell(error)
        return error is None

    def _tell(self, error: KafkaError) -> None:
        reason = REASONS.get(error.name(), error.name())
        self._limited.warning(reason, "moesif: reading from Kafka: %s; retrying", reason)

    def _take(self, messages: Sequence[Message]) -> None:
        records, settlement = [], Settlement(self._taken + len(messages))
        for message in messages:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self._offsets.take(partition, offset)
            try:
                records.append(read(message, self._destination, self._applications))
            except NotEventError as error:
                self._bury(message, str(error))
                settlement.dropped["not_an_event"] += 1
                self._offsets.done(partition, offset)
        if messages:
            self._taken += len(messages)
            self._store.put(records, settlement)
            self._sender.notify()

    def _bury(self, message: Message, reason: str) -> None:
        """Write a dead letter and wait for the broker: later records must wait anyway, as the offset cannot advance."""
        log.error(
            "moesif: record %d of partition %d goes to the dead-letter topic: %s",
            *(message.offset(), message.partition(), reason),
        )
        while (failure := self._dead_letters.write(message, reason)) is not None:
            self._limited.error("dead", "moesif: a dead letter cannot be written (%s); retrying", failure)
            if self._stopped.wait(DEAD_LETTER_PAUSE):
                raise _UnburiedError

    # --- offsets -------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        self._commit_at = time.monotonic() + COMMIT_SECONDS
        if not (due := self._offsets.due()):
            return
        from confluent_kafka import KafkaException, TopicPartition

        offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in due.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:  # the next commit includes these offsets
            if error.args[0].name() in REBALANCE:
                log.info("moesif: the group's partitions are being reassigned; offsets are committed afterwards")
            else:
                self._tell(error.args[0])
        else:
            self._offsets.commit(due)

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The library assigns the partitions after this call, as its protocol requires.

        It may keep earlier ones paused, so the next turn pauses or resumes all of them.
        """
        self._paused = None
        numbers = ", ".join(str(one.partition) for one in partitions)
        log.info("moesif: assigned partitions of %s: %s", self._topic, numbers or "none")

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Commit. Records in progress still arrive, and are sent again by the next member."""
        self._commit()
        self._lost(_consumer, partitions)

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._offsets.forget(one.partition for one in partitions)

    def _close(self) -> None:
        began = min(self._stopped_at, time.monotonic())
        self._sender.stop(began + self._seconds)
        while not self._sender.join(time.monotonic() + POLL_SECONDS) and time.monotonic() < began + self._seconds:
            pass
        self._commit()
        self._consumer.close()


class _UnburiedError(Exception):
    """The forwarder was stopped before a dead letter was written; the next member reads the record again."""


class _TrackedStore(Store):
    """A store in memory that marks offsets as done."""

    def __init__(self, ledger: Ledger, offsets: Offsets) -> None:
        super().__init__(ledger, None, 0)
        self._offsets = offsets

    def settle(self, destination: str, parts: Sequence[Part]) -> None:
        super().settle(destination, parts)
        for part in parts:
            chunk: Any = part.waiting.chunk
            if not part.left and isinstance(chunk, Record):
                self._offsets.done(chunk.partition, chunk.offset)
