"""A record of the topic as a chunk of one event, or why it is none; such a record goes to the dead-letter topic."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mitmproxy_moesif.delivery.receivers.kafka import APPLICATION, REASONS, make_producer
from mitmproxy_moesif.delivery.spool.chunk import Chunk

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

DEAD = ".dead"
"""What the dead-letter topic's name ends with."""

REASON, PARTITION, OFFSET = "moesif-reason", "moesif-partition", "moesif-offset"
SECONDS = 10.0
"""What writing a dead letter may take."""


class _Request(msgspec.Struct):
    time: str


class _Event(msgspec.Struct):
    """What every event has; nothing else of it is parsed into objects."""

    transaction_id: Annotated[str, msgspec.Meta(min_length=1)]
    request: _Request


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(slots=True, eq=False)
class Record(Chunk):
    """`destination`, `created`, ids and events as of a chunk, of which there is one; and where it was read."""

    partition: int = 0
    offset: int = 0


class NotEventError(ValueError):
    """Why a record cannot be sent, in a few words."""


def read(message: Message, destination: str, applications: Collection[bytes]) -> Record:
    """Raises `NotEventError`. `applications`: the names that it may be for; a record without one is for anybody."""
    named = dict(message.headers() or []).get(APPLICATION)
    if named is not None and named not in applications:
        raise NotEventError("it is for another application ID")
    value, partition, offset = message.value() or b"", message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    event = _event(value)
    return Record(
        destination, message.timestamp()[1] / 1000, (event.transaction_id,), (value,), None, partition, offset
    )


def _event(value: bytes) -> _Event:
    """The standard library takes what the decoder refuses: half a surrogate pair in a body."""
    try:
        try:
            return _decode(value)
        except msgspec.MsgspecError:
            return msgspec.convert(json.loads(value, parse_int=str, parse_float=str), _Event)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise NotEventError("it is not an event in JSON") from None


class DeadLetters:
    """Writes records that are no events to the topic for them."""

    def __init__(self, topic: str, wanted: Mapping[str, Any]) -> None:
        self._topic = topic + DEAD
        self._producer = make_producer(wanted)

    def write(self, message: Message, reason: str) -> str | None:
        """The record as it was, and why it is there. None once the broker has it, else what went wrong."""
        told: list[KafkaError | None] = []
        where = [(PARTITION, str(message.partition())), (OFFSET, str(message.offset()))]
        headers: Any = [*(message.headers() or []), (REASON, reason), *where]
        self._producer.produce(
            self._topic,
            message.value(),
            message.key(),
            headers=headers,
            on_delivery=lambda error, _message: told.append(error),
        )
        self._producer.flush(SECONDS)
        if told == [None]:
            return None
        self._producer.purge()
        error = told[0] if told else None
        return REASONS.get(error.name(), error.name()) if error is not None else REASONS["_TIMED_OUT"]
