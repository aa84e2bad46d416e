"""Akto's records to the Kafka topic that its runtime reads."""

from __future__ import annotations

import builtins
from contextlib import closing
from typing import Any

import orjson
import pytest

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.delivery.receivers.akto_kafka import AktoTopic, akto_receiver, akto_trouble
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict
from tests.support.kafka import Broker
from tests.support.listener import Listener


def target(brokers: str, **more: Any) -> AktoTarget:
    found = AktoTarget.of(parse_settings({"akto_kafka_brokers": brokers, "akto_transport": "kafka", **more}))
    assert found is not None
    return found


def a_record(host: str | None) -> bytes:
    return orjson.dumps({"requestHeaders": orjson.dumps({"host": host} if host else {}).decode()})


def test_a_message_is_the_record_with_its_host_as_key() -> None:
    with Broker() as broker:
        broker.create("akto.api.logs", 1)
        records = [a_record("api.example.com"), a_record(None)]
        with closing(akto_receiver(target(broker.address))) as receiver:
            assert receiver.send(records).verdict is Verdict.ACCEPTED
        found = broker.records("akto.api.logs", 2)
    assert [message.value() for message in found] == records
    assert [message.key() for message in found] == [b"api.example.com", None]


def test_a_broker_that_is_away_is_one_line() -> None:
    with (
        Listener(lambda _: None, refusing=True) as gone,
        closing(AktoTopic(target(f"127.0.0.1:{gone.port}", akto_timeout=500))) as receiver,
    ):
        assert receiver.send([a_record("h")]) == Outcome(Verdict.UNAVAILABLE, "no broker can be reached")


def test_transport_and_brokers_belong_together() -> None:
    with pytest.raises(SettingsError, match="akto_transport: kafka needs akto_kafka_brokers"):
        parse_settings({"akto_transport": "kafka"})
    with pytest.raises(SettingsError, match="akto_kafka_brokers: must be a list of HOST:PORT"):
        target("kafka://h")
    assert target("h:9092").name == "akto@h:9092_akto.api.logs"
    assert AktoTarget.of(parse_settings({"akto_kafka_brokers": "h:9092"})) is None


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "confluent_kafka":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    expected = "akto_kafka_brokers needs confluent-kafka: python -m pip install confluent-kafka"
    assert akto_trouble(target("h:9092")) == expected
