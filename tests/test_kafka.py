"""Proxies that write to Kafka, and what arrives: whatever ends in between, each id that a client saw is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.support.addon import addon_options, exit_counts
from tests.support.collector import ScriptedCollector
from tests.support.forward import Forward
from tests.support.kafka import Broker
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Option, StartError
from tests.support.traffic import kill_under_load, send_many
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., MoesifProxy]
TOPIC = "moesif.events"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        broker.create(TOPIC, 4)
        yield broker


def kafka_options(broker: Broker, **more: Option) -> dict[str, Option]:
    return {**addon_options(None, **more), "moesif_kafka_brokers": broker.address}


def ids_in(broker: Broker, count: int) -> list[str]:
    return [json.loads(record.value() or b"")["transaction_id"] for record in broker.records(TOPIC, count)]


@pytest.mark.parametrize("background", ["process", "threads"])
def test_every_exchange_is_a_message_and_is_counted_as_delivered(
    background: str, moesif_proxy: Start, upstream: ScriptedUpstream, broker: Broker
) -> None:
    proxy = moesif_proxy(upstream.url, kafka_options(broker, background=background))
    sent = send_many(proxy.port, 50)
    assert sorted(ids_in(broker, 50)) == sorted(sent)
    assert proxy.stop() == 0
    counts = exit_counts(proxy.output)
    assert (counts["captured"], counts["delivered"], counts["waiting"], counts["dropped"]) == (50, 50, 0, 0)


def test_a_start_does_not_wait_for_a_broker_and_events_wait_on_disk(
    moesif_proxy: Start, upstream: ScriptedUpstream
) -> None:
    with Broker(running=False) as broker:
        options = kafka_options(broker, connect_timeout=500, send_timeout=1500)
        proxy = moesif_proxy(upstream.url, options)
        sent = send_many(proxy.port, 20)
        broker.start()
        broker.create(TOPIC, 2)
        sent += send_many(proxy.port, 20)
        assert set(ids_in(broker, 40)) == set(sent)
        proxy.stop()
        assert exit_counts(proxy.output)["delivered"] == 40


def test_a_killed_proxy_and_a_broker_that_ends_mid_run_lose_nothing(
    moesif_proxy: Start, upstream: ScriptedUpstream, broker: Broker
) -> None:
    """What the broker has acknowledged is read before it ends: this one keeps nothing on disk."""
    options = kafka_options(broker, connect_timeout=500, send_timeout=1500)
    proxy = moesif_proxy(upstream.url, options)
    sent = set(send_many(proxy.port, 100))
    arrived = set(ids_in(broker, 100))
    broker.stop()
    sent |= kill_under_load(proxy, 300)
    broker.start()
    broker.create(TOPIC, 4)
    again = moesif_proxy(upstream.url, options, folder=proxy.folder)
    sent |= set(send_many(again.port, 50))
    again.stop()
    arrived |= set(ids_in(broker, 50))
    assert sent <= arrived
    assert exit_counts(again.output)["waiting"] == 0


def test_from_the_client_through_kafka_to_moesif_whatever_is_killed(
    moesif_proxy: Start, upstream: ScriptedUpstream, broker: Broker, collector: ScriptedCollector
) -> None:
    options = kafka_options(broker)
    proxy = moesif_proxy(upstream.url, options)
    with Forward(broker, collector) as forward:
        seen = kill_under_load(proxy, 300)
        forward.kill()
    again = moesif_proxy(upstream.url, options, folder=proxy.folder)
    seen |= set(send_many(again.port, 50))
    with Forward(broker, collector, "--workers", "2"):
        collector.wait_for(lambda arrived: seen <= arrived.unique_ids(), timeout=60)
    again.stop()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("moesif_kafka_config", "no.such=1", 'moesif: kafka_config: No such configuration property: "no.such"'),
        ("moesif_kafka_config", "acks=1", "moesif: kafka_config: acks is set by the addon"),
        ("moesif_kafka_brokers", "http://kafka:9092", "kafka_brokers: must be a list of HOST:PORT"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line(
    option: str, value: str, said: str, moesif_proxy: Start, upstream: ScriptedUpstream
) -> None:
    options = {"moesif_kafka_brokers": "127.0.0.1:1", option: value}
    with pytest.raises(StartError) as refused:
        moesif_proxy(upstream.url, options)
    assert said in refused.value.output
    assert refused.value.output.count("moesif: ") == 1
