"""Sends batches to a Kafka topic: one message per event, accepted once all in-sync replicas have it.

The value is the event in Moesif's format; the key is its company id, else its user id, else none. Headers:
`moesif-transaction-id`, `moesif-application` (the hash of the application id, not the id), `moesif-schema`.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mitmproxy_moesif.config.destination import application_of
from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

TRANSACTION_ID, APPLICATION, SCHEMA = "moesif-transaction-id", "moesif-application", "moesif-schema"
SCHEMA_VERSION = b"1"

DEFAULTS: Mapping[str, Any] = {
    "client.id": "mitmproxy-moesif",
    "log_level": 0,  # the sender logs problems, once
    "message.max.bytes": 1_048_000,  # the brokers' default; an event has at most 1,000,000
    "linger.ms": 5,
    "topic.metadata.propagation.max.ms": 3000,
}
GUARANTEES: Mapping[str, Any] = {"enable.idempotence": True, "acks": "all"}
OURS = frozenset(
    {
        *("bootstrap.servers", "metadata.broker.list", "group.id", "enable.auto.commit", "enable.auto.offset.store"),
        *("message.timeout.ms", "delivery.timeout.ms", "delivery.report.only.error", "transactional.id"),
        *(*GUARANTEES, "request.required.acks"),
    }
)
"""Settings that the user must not override: with another value events could be lost."""

FLUSH_GRACE = 1.0
"""Seconds after the messages' own timeout within which librdkafka reports the outcome of each."""

ASK_SECONDS = 0.25
"""Seconds between polls for connection errors while waiting for a broker."""

REFUSED = frozenset({"MSG_SIZE_TOO_LARGE", "INVALID_MSG", "INVALID_RECORD"})
REASONS = {
    "_AUTHENTICATION": "the broker does not accept the credentials: check moesif_kafka_config",
    "SASL_AUTHENTICATION_FAILED": "the broker does not accept the credentials: check moesif_kafka_config",
    "_SSL": "the TLS handshake with the broker failed",
    "_RESOLVE": "the broker's name cannot be resolved",
    "_TRANSPORT": "no broker can be reached",
    "_ALL_BROKERS_DOWN": "no broker can be reached",
    "_MSG_TIMED_OUT": "no broker has answered in time",
    "_TIMED_OUT": "no broker has answered in time",
    "_UNKNOWN_TOPIC": "the topic does not exist",
    "UNKNOWN_TOPIC_OR_PART": "the topic does not exist",
    "TOPIC_AUTHORIZATION_FAILED": "writing to the topic is not allowed",
    "NOT_ENOUGH_REPLICAS": "too few replicas are in sync",
}


type Headers = list[tuple[str, str | bytes | None]]


class TopicReceiver(ABC):
    """One topic. For one thread. After a failure it uses a new producer, so that no old message is sent late."""

    def __init__(self, topic: str, seconds: float) -> None:
        self._topic = topic
        self._seconds = seconds
        self._producer: Producer | None = None
        self._trouble = ""

    def send(self, events: Sequence[bytes]) -> Outcome:
        if self._producer is None:
            try:
                self._producer = self._connect()
            except ValueError as error:
                return Outcome(Verdict.UNAVAILABLE, str(error))
        if not events:
            return self._ask(self._producer)
        sent = _Sent()
        for event in events:
            self._produce(self._producer, event, sent)
        self._producer.flush(self._seconds + FLUSH_GRACE)
        if sent.acknowledged == len(events):
            self._trouble = ""
            return Outcome(Verdict.ACCEPTED, "acknowledged")
        self.close()
        names = {error.name() for error in sent.errors}
        if refused := names & REFUSED:
            return Outcome(Verdict.REFUSED, min(refused))
        return Outcome(Verdict.UNAVAILABLE, self._why(names))

    def _ask(self, producer: Producer) -> Outcome:
        """Wait until a broker responds, a connection error is known, or the time is over."""
        from confluent_kafka import KafkaException

        self._trouble, deadline = "", time.monotonic() + self._seconds
        names: set[str] = set()
        while not self._trouble and time.monotonic() < deadline:
            try:
                producer.list_topics(self._topic, ASK_SECONDS)
            except KafkaException as error:
                names = {error.args[0].name()}
                producer.poll(0)  # runs `_note` for connection errors
            else:
                return Outcome(Verdict.ACCEPTED, "a broker answers")
        self.close()
        return Outcome(Verdict.UNAVAILABLE, self._why({self._trouble} if self._trouble else names))

    def _connect(self) -> Producer:
        timeout = {"message.timeout.ms": int(self._seconds * 1000)}
        return make_producer({**self._configuration(), **timeout, "error_cb": self._note})

    @abstractmethod
    def _configuration(self) -> dict[str, Any]:
        """The client's configuration. Raises `ValueError` with a one-line text."""

    @abstractmethod
    def _message(self, event: bytes) -> tuple[bytes | None, Headers]:
        """The key and headers of an event's message."""

    def _note(self, error: KafkaError) -> None:
        """Keep the connection's last error; "all brokers down" does not replace a more specific one."""
        if error.name() != "_ALL_BROKERS_DOWN" or not self._trouble:
            self._trouble = error.name()

    def _why(self, names: set[str]) -> str:
        """A message that was never sent only gets a time-out; the reason is then the connection's error."""
        told = names - {"_MSG_TIMED_OUT"} or {self._trouble or "_MSG_TIMED_OUT"}
        return ", ".join(sorted(REASONS.get(name, name) for name in told))

    def _produce(self, producer: Producer, event: bytes, sent: _Sent) -> None:
        from confluent_kafka import KafkaException

        key, headers = self._message(event)
        try:
            producer.produce(self._topic, event, key, on_delivery=sent.told, headers=headers)
        except KafkaException as error:
            sent.errors.append(error.args[0])
        except BufferError:
            producer.poll(0)  # not acknowledged, so the whole batch is sent again

    def close(self) -> None:
        """Discard messages in flight without waiting: none of them was reported as accepted."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()


class KafkaReceiver(TopicReceiver):
    """Sends events."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.kafka_topic, settings.connect_seconds + settings.send_seconds)
        self._settings = settings
        self._headers = [(APPLICATION, application_of(settings).encode()), (SCHEMA, SCHEMA_VERSION)]

    def _configuration(self) -> dict[str, Any]:
        return configuration(self._settings)

    def _message(self, event: bytes) -> tuple[bytes | None, Headers]:
        caller = _caller(event)
        return caller.key, [(TRANSACTION_ID, caller.transaction_id.encode()), *self._headers]


class _Sent:
    """The delivery reports of librdkafka for one batch."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.errors: list[KafkaError] = []

    def told(self, error: KafkaError | None, _message: object) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.errors.append(error)


class _Caller(msgspec.Struct):
    """The fields of an event that its key and headers need; the rest is not parsed into objects."""

    transaction_id: str = ""
    company_id: str | None = None
    user_id: str | None = None

    @property
    def key(self) -> bytes | None:
        caller = self.company_id or self.user_id
        return caller.encode(errors="surrogatepass") if caller else None


_decode = msgspec.json.Decoder(_Caller).decode


def _caller(event: bytes) -> _Caller:
    """The standard library also accepts what the decoder refuses: half a surrogate pair in a body."""
    try:
        return _decode(event)
    except msgspec.MsgspecError:
        plain = json.loads(event, parse_int=str, parse_float=str)
        return _Caller(*(plain.get(name) for name in _Caller.__struct_fields__))


def make_producer(wanted: Mapping[str, Any]) -> Producer:
    """An idempotent producer. Raises `ValueError` with a one-line text that contains no value of a setting."""
    producer: Producer = made("Producer", {**wanted, **GUARANTEES})
    return producer


def made(kind: str, wanted: Mapping[str, Any]) -> Any:
    """A librdkafka client of the class named `kind`. Raises like `make_producer`."""
    try:
        import confluent_kafka
    except ImportError:
        raise ValueError("kafka_brokers needs confluent-kafka: python -m pip install confluent-kafka") from None
    try:
        return getattr(confluent_kafka, kind)(dict(wanted))
    except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
        raise ValueError(f"kafka_config: {_without_values(error, wanted)}") from None


def _without_values(error: Exception, wanted: Mapping[str, Any]) -> str:
    """The error text of librdkafka, with the values of settings that it may quote removed."""
    first = error.args[0]
    text = " ".join((first.str() if hasattr(first, "str") else str(first)).split())
    for value in sorted((one for one in wanted.values() if isinstance(one, str) and one), key=len, reverse=True):
        text = text.replace(f'"{value}"', '"..."')
    return text


def configuration(settings: Settings) -> dict[str, Any]:
    """Every client's configuration. Raises `ValueError` with a one-line text that contains no value of a setting."""
    compression = "lz4" if settings.enable_compression else "none"
    given = _given(settings.kafka_config.get_secret_value().strip())
    brokers = ",".join(settings.kafka_brokers)
    return {**DEFAULTS, "compression.type": compression, **given, "bootstrap.servers": brokers}


def _given(text: str) -> dict[str, str]:
    """Parse `key=value` pairs: separated by commas, or one per line in the file that `text` names."""
    if not text:
        return {}
    if "=" in text:
        lines = text.split(",")
    else:
        try:
            lines = expanded(text).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ValueError(f"kafka_config: the file cannot be read: {reason}") from None
    pairs = [line.partition("=") for raw in lines if (line := raw.strip()) and not line.startswith("#")]
    given = {}
    for number, (name, equals, value) in enumerate(pairs, 1):
        if not equals:
            raise ValueError(f"kafka_config: setting {number} is not key=value")
        if (key := name.strip()) in OURS:
            raise ValueError(f"kafka_config: {key} is set by the addon")
        given[key] = value.strip()
    return given


def trouble(settings: Settings) -> str | None:
    """The problem with the Kafka settings in one line, if any; does not contact brokers."""
    try:
        make_producer(configuration(settings))
    except ValueError as error:
        return str(error)
    return None
