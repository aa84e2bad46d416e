"""Converts a record of the topic to a chunk of one event; other records go to the dead-letter topic, with a reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mitmproxy_moesif.delivery.reading import read_event
from mitmproxy_moesif.delivery.receivers.kafka import APPLICATION, REASONS, Headers, make_producer
from mitmproxy_moesif.delivery.spool.chunk import Chunk

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

DEAD = ".dead"
"""The suffix of the dead-letter topic's name."""

REASON, PARTITION, OFFSET = "moesif-reason", "moesif-partition", "moesif-offset"
LEFT_OUT = "moesif-left-out"
"""The header that says why a dead letter lacks its record's key, value and headers."""

TOO_LARGE = "MSG_SIZE_TOO_LARGE"
ANY_SIZE = 1_000_000_000
"""No limit here; the broker decides on the size of a dead letter."""

SECONDS = 10.0
"""Timeout for writing a dead letter."""


@dataclass(slots=True, eq=False)
class Record(Chunk):
    """A chunk of one event, with the partition and offset where it was read."""

    partition: int = 0
    offset: int = 0


class NotEventError(ValueError):
    """A record cannot be sent; the text says why in a few words."""


def read(message: Message, destination: str, applications: Collection[bytes]) -> Record:
    """Convert a record. `applications`: the accepted names; a record without a name is always accepted. Raises
    `NotEventError`."""
    if (headers := headers_of(message)) is None:
        raise NotEventError("the name of a header is not UTF-8")
    named = dict(headers).get(APPLICATION)
    if named is not None and named not in applications:
        raise NotEventError("it is for another application ID")
    value, partition, offset = message.value() or b"", message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    try:
        event = read_event(value)
    except ValueError:
        raise NotEventError("it is not an event in JSON") from None
    line = value.replace(b"\n", b" ").replace(b"\r", b" ")  # valid JSON has these only between tokens
    return Record(destination, message.timestamp()[1] / 1000, (event.transaction_id,), (line,), None, partition, offset)


def headers_of(message: Message) -> Headers | None:
    """The headers; None if the library cannot decode them, for which it raises unspecific errors."""
    try:
        headers: Any = message.headers() or []
    except (SystemError, ValueError):
        return None
    return list(headers)


class DeadLetters:
    """Writes records that are not events to the dead-letter topic."""

    def __init__(self, topic: str, wanted: Mapping[str, Any]) -> None:
        self._topic = topic + DEAD
        self._producer = make_producer({**wanted, "message.max.bytes": ANY_SIZE})

    def write(self, message: Message, reason: str) -> str | None:
        """Write the record unchanged, with the reason; only the reason if the topic does not accept its size.

        Returns None once the broker has it, else the error.
        """
        where: Headers = [(PARTITION, str(message.partition())), (OFFSET, str(message.offset()))]
        told: Headers = [(REASON, reason), *where]
        failure = self._produce(message.value(), message.key(), [*(headers_of(message) or []), *told])
        if failure == TOO_LARGE:
            failure = self._produce(None, None, [*told, (LEFT_OUT, "it is too large for this topic")])
        return REASONS.get(failure, failure) if failure is not None else None

    def _produce(self, value: bytes | None, key: bytes | None, headers: Headers) -> str | None:
        """Returns the name of the error, or None."""
        from confluent_kafka import KafkaException

        told: list[KafkaError | None] = []
        try:
            self._producer.produce(
                self._topic, value, key, headers=headers, on_delivery=lambda error, _message: told.append(error)
            )
        except KafkaException as refusal:
            return str(refusal.args[0].name())
        except BufferError:  # the queue is empty, so the message itself is too large
            return TOO_LARGE
        self._producer.flush(SECONDS)
        if told == [None]:
            return None
        self._producer.purge()
        error = told[0] if told else None
        return error.name() if error is not None else "_TIMED_OUT"
