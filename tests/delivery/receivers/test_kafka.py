"""Events to a Kafka broker: each is acknowledged or kept, and what is wrong is told in one line."""

from __future__ import annotations

import builtins
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.config.destination import application_of
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import Settings, SettingsError, parse_settings
from mitmproxy_moesif.delivery.receivers.base import Verdict
from mitmproxy_moesif.delivery.receivers.kafka import KafkaReceiver, configuration, trouble
from tests.delivery.pipelines import sending
from tests.support.kafka import Broker
from tests.support.listener import Listener

TOPIC = "moesif.events"
SECRET = "correct-horse"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


def kafka_settings(brokers: str, **more: Any) -> Settings:
    return parse_settings({"kafka_brokers": brokers, "connect_timeout": 500, "send_timeout": 2500, **more})


def wait_until(holds: Callable[[], bool]) -> None:
    """The test's own timeout ends it."""
    while not holds():
        time.sleep(0.01)


def event(transaction_id: str, **more: Any) -> bytes:
    return json.dumps({"transaction_id": transaction_id, "request": {"time": "2026"}, **more}).encode()


def test_a_message_is_the_event_with_its_caller_as_key_and_three_headers(broker: Broker) -> None:
    settings = kafka_settings(broker.address, application_id="secret-id", kafka_topic="headers")
    broker.create("headers", 1)
    events = [
        event("1", company_id="acme", user_id="ada"),
        event("2", user_id="ada"),
        event("3"),
        event("4", user_id="\ud800", request={"body": "\ud800"}),
    ]
    assert KafkaReceiver(settings).send(events).verdict is Verdict.ACCEPTED
    records = broker.records("headers", 4)
    assert [record.value() for record in records] == events
    assert [record.key() for record in records] == [b"acme", b"ada", None, "\ud800".encode(errors="surrogatepass")]
    headers = [dict(record.headers() or []) for record in records]
    name = application_of(settings).encode()
    assert [one.pop("moesif-transaction-id") for one in headers] == [b"1", b"2", b"3", b"4"]
    assert headers == [{"moesif-application": name, "moesif-schema": b"1"}] * 4
    assert b"secret-id" not in name


def test_a_broker_that_is_away_keeps_events_and_takes_them_when_it_is_back() -> None:
    with Broker(running=False) as broker:
        receiver = KafkaReceiver(kafka_settings(broker.address))
        outcome = receiver.send([event("1")])
        assert (outcome.verdict, outcome.reason) == (Verdict.UNAVAILABLE, "no broker can be reached")
        broker.start()
        broker.create(TOPIC)
        assert receiver.send([event("1")]).verdict is Verdict.ACCEPTED
        broker.pause()
        assert receiver.send([event("2")]).verdict is Verdict.UNAVAILABLE
        broker.resume()
        assert receiver.send([event("2")]).verdict is Verdict.ACCEPTED


def test_brokers_that_are_away_are_known_without_an_event() -> None:
    with Broker(running=False) as broker:
        receiver = KafkaReceiver(kafka_settings(broker.address, send_timeout=60_000))
        outcome = receiver.send(())
        assert (outcome.verdict, outcome.reason) == (Verdict.UNAVAILABLE, "no broker can be reached")
        broker.start()
        assert receiver.send(()).verdict is Verdict.ACCEPTED


def test_brokers_are_asked_at_the_start_and_while_they_are_away(caplog: pytest.LogCaptureFixture) -> None:
    with Broker(running=False) as broker:
        instance = Instance.compile(kafka_settings(broker.address))
        with sending(None, instance) as proxy:
            health = proxy.pipeline._senders[instance.destination].health
            wait_until(lambda: "the receiver is unavailable (no broker can be reached)" in caplog.text)
            assert health.down_since is not None
            broker.start()
            wait_until(lambda: health.down_since is None)
            assert health.heard is not None


def test_an_event_that_the_broker_refuses_is_refused(broker: Broker) -> None:
    receiver = KafkaReceiver(kafka_settings(broker.address, kafka_config="message.max.bytes=2000"))
    outcome = receiver.send([event("1", user_id="x" * 3000)])
    assert (outcome.verdict, outcome.reason) == (Verdict.REFUSED, "MSG_SIZE_TOO_LARGE")


def test_the_reason_of_a_message_goes_before_that_of_the_connection() -> None:
    """The broker of the tests makes every topic, so this is told by name."""
    receiver = KafkaReceiver(kafka_settings("127.0.0.1:1"))
    assert receiver._why({"UNKNOWN_TOPIC_OR_PART", "_MSG_TIMED_OUT"}) == "the topic does not exist"


def test_wrong_credentials_are_told_without_showing_them(broker: Broker) -> None:
    config = f"security.protocol=sasl_plaintext,sasl.mechanisms=PLAIN,sasl.username=ada,sasl.password={SECRET}"
    outcome = KafkaReceiver(kafka_settings(broker.address, kafka_config=config)).send([event("1")])
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert outcome.reason == "the broker does not accept the credentials: check moesif_kafka_config"


def test_what_is_no_broker_is_unavailable() -> None:
    listener = Listener(lambda connection: connection.close())
    try:
        outcome = KafkaReceiver(kafka_settings(f"127.0.0.1:{listener.port}")).send([event("1")])
    finally:
        listener.close()
    assert outcome.verdict is Verdict.UNAVAILABLE


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("no.such=1", 'kafka_config: No such configuration property: "no.such"'),
        ("acks=0", "kafka_config: acks is set by the addon"),
        ("sasl.password", "kafka_config: the file cannot be read: No such file or directory"),
        ("linger.ms=5,broken", "kafka_config: setting 2 is not key=value"),
        (f"linger.ms={SECRET}", 'kafka_config: Invalid value for configuration property "queue.buffering.max.ms"'),
        (f"compression.type={SECRET}", 'kafka_config: Invalid value "..." for configuration property "compression'),
    ],
)
def test_a_wrong_setting_is_one_line_without_its_value(config: str, said: str) -> None:
    told = trouble(kafka_settings("127.0.0.1:1", kafka_config=config))
    assert told is not None
    assert told.startswith(said)
    assert "\n" not in told
    assert SECRET not in told


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text(f"# of the cluster\n\nsasl.password = {SECRET},x=1\nlinger.ms=20\n")
    given = configuration(kafka_settings("a:1,b:2", kafka_config=str(path)))
    assert given["sasl.password"] == f"{SECRET},x=1"
    assert (given["linger.ms"], given["bootstrap.servers"]) == ("20", "a:1,b:2")


def test_without_the_library_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "confluent_kafka":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    settings = kafka_settings("127.0.0.1:1")
    said = "kafka_brokers needs confluent-kafka: python -m pip install confluent-kafka"
    assert trouble(settings) == said
    assert KafkaReceiver(settings).send([event("1")]).reason == said


@pytest.mark.parametrize("brokers", ["kafka", "http://kafka:9092", "kafka:x", "kafka:9092/x", "a:1,b"])
def test_an_address_that_is_none_is_refused(brokers: str) -> None:
    with pytest.raises(SettingsError, match="kafka_brokers: must be a list of HOST:PORT"):
        parse_settings({"kafka_brokers": brokers})


@pytest.mark.parametrize("topic", ["", "a b", "a/b", "x" * 245])
def test_a_topic_that_is_none_is_refused(topic: str) -> None:
    with pytest.raises(SettingsError, match="kafka_topic"):
        parse_settings({"kafka_topic": topic})


def test_the_application_is_the_id_s_hash_or_kafka() -> None:
    assert application_of(kafka_settings("a:1")) == "kafka"
    assert application_of(kafka_settings("a:1", application_id="x")) == application_of(
        parse_settings({"application_id": "x"})
    )
