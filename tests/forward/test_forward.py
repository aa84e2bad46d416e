"""From a real broker to a collector in trouble, by real processes: every event arrives, and is counted once."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import requests

from mitmproxy_moesif.delivery.receivers.kafka import KafkaReceiver
from mitmproxy_moesif.forward.forwarder import Forwarder
from tests.delivery.receivers.test_kafka import event, kafka_settings
from tests.support.addon import exit_counts
from tests.support.collector import Answer, ScriptedCollector, refuse_events
from tests.support.forward import Forward
from tests.support.kafka import Broker

TOPIC = "moesif.events"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        broker.create(TOPIC, 4)
        yield broker


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as collector:
        yield collector


class Writer:
    """Writes events as a proxy does, and remembers their ids."""

    def __init__(self, broker: Broker) -> None:
        self._receiver = KafkaReceiver(kafka_settings(broker.address, send_timeout=10_000))
        self.ids: set[str] = set()

    def write(self, count: int) -> None:
        ids = [str(uuid.uuid4()) for _ in range(count)]
        events = [event(one, user_id=one[:2], request={"time": NOW, "uri": "/", "verb": "GET"}) for one in ids]
        outcome = self._receiver.send(events)
        assert outcome.reason == "acknowledged"
        self.ids.update(ids)


NOW = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


ASSIGNED = "assigned partitions of"


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_event_arrives_and_the_next_member_goes_on_where_the_last_one_ended(
    broker: Broker, collector: ScriptedCollector
) -> None:
    writer = Writer(broker)
    writer.write(500)
    with Forward(broker, collector) as first:
        collector.wait_for(500, timeout=30)
        assert first.stop() == 0
        counts = exit_counts(first.output)
    assert (counts["captured"], counts["delivered"], counts["waiting"], counts["dropped"]) == (500, 500, 0, 0)
    writer.write(100)
    with Forward(broker, collector) as second:
        collector.wait_for(600, timeout=30)
        assert second.stop() == 0
    assert collector.unique_ids() == writer.ids
    assert len(collector.ids()) == 600


def test_while_moesif_is_down_nothing_is_committed_and_nothing_is_lost(
    broker: Broker, collector: ScriptedCollector
) -> None:
    collector.refuse()
    writer = Writer(broker)
    writer.write(3000)
    with Forward(broker, collector, shutdown_timeout=100) as first:
        wait_until(lambda: "the receiver is unavailable" in first.output)
        first.stop()
        assert exit_counts(first.output)["captured"] < 3000, "it went on reading"
    collector.listen()
    with Forward(broker, collector) as second:
        collector.wait_for(3000, timeout=40)
        second.stop()
    assert collector.unique_ids() == writer.ids


def test_a_killed_forwarder_loses_nothing(broker: Broker, collector: ScriptedCollector) -> None:
    collector.script = lambda _received: Answer(delay=0.05)
    writer = Writer(broker)
    writer.write(1500)
    with Forward(broker, collector) as first:
        collector.wait_for(300, timeout=30)
        first.kill()
    with Forward(broker, collector) as second:
        collector.wait_for(1500, timeout=60)
        second.stop()
    assert collector.unique_ids() == writer.ids


def test_an_event_that_moesif_refuses_is_counted_and_passed_over(broker: Broker, collector: ScriptedCollector) -> None:
    collector.script = refuse_events(lambda one: one.get("user_id") == "refuse me")
    writer = Writer(broker)
    writer.write(40)
    broker.put(TOPIC, event("bad", user_id="refuse me", request={"time": NOW, "uri": "/", "verb": "GET"}))
    writer.write(40)
    with Forward(broker, collector) as forward:
        collector.wait_for(80, timeout=30)
        wait_until(lambda: "the receiver refused event bad" in forward.output)
        forward.stop()
        counts = exit_counts(forward.output)
    assert counts["causes"] == {"refused": 1}
    assert collector.unique_ids() == writer.ids


NO_EVENTS = {
    b"",
    b"not json",
    b"[1]",
    b"{}",
    b'{"transaction_id": 7}',
    b'{"transaction_id": "x"}',
    b"[" * 100_000,
    b"\xff",
}


def test_a_record_that_is_no_event_goes_to_the_dead_letters_with_its_reason(
    broker: Broker, collector: ScriptedCollector
) -> None:
    writer = Writer(broker)
    writer.write(10)
    for value in NO_EVENTS:
        broker.put(TOPIC, value, key=b"who", headers=[("mine", b"1")])
        writer.write(10)
    with Forward(broker, collector) as forward:
        collector.wait_for(10 + 10 * len(NO_EVENTS), timeout=30)
        letters = broker.records(f"{TOPIC}.dead", len(NO_EVENTS))
        forward.stop()
        counts = exit_counts(forward.output)
    assert len(letters) == len(NO_EVENTS)
    assert {letter.value() or b"" for letter in letters} == NO_EVENTS
    for letter in letters:
        headers = dict(letter.headers() or [])
        assert (letter.key(), headers["mine"]) == (b"who", b"1")
        assert headers["moesif-reason"] == b"it is not an event in JSON"
    assert counts["causes"] == {"not_an_event": len(NO_EVENTS)}
    assert collector.unique_ids() == writer.ids


def test_an_old_record_that_cannot_be_read_stops_no_other(broker: Broker, collector: ScriptedCollector) -> None:
    older = int((time.time() - 40 * 86_400) * 1000)
    broker.put(TOPIC, b'{"transaction_id": "x", "request": {"time": "2020"}, "body": "\xff"}', timestamp=older)
    writer = Writer(broker)
    writer.write(10)
    with Forward(broker, collector) as forward:
        assert {one["transaction_id"] for one in collector.wait_for(10, timeout=30)} == writer.ids
        assert forward.stop() == 0
        assert exit_counts(forward.output)["causes"] == {"not_an_event": 1}


@pytest.mark.parametrize("kafka_config", ["", "queue.buffering.max.kbytes=1000"])
def test_a_dead_letter_may_be_of_any_size(broker: Broker, collector: ScriptedCollector, kafka_config: str) -> None:
    """What is larger than may be written leaves its content behind: the record is still where it was."""
    value = bytes(1_048_001)
    broker.put(TOPIC, value, most=2_000_000)
    writer = Writer(broker)
    writer.write(10)
    with Forward(broker, collector, kafka_config=kafka_config) as forward:
        assert {one["transaction_id"] for one in collector.wait_for(10, timeout=30)} == writer.ids
        (letter,) = broker.records(f"{TOPIC}.dead")
        assert forward.stop() == 0
    headers = dict(letter.headers() or [])
    assert headers["moesif-offset"] == b"0"
    assert (letter.value(), headers.get("moesif-left-out")) == (
        (None, b"it is too large for this topic") if kafka_config else (value, None)
    )


def test_an_event_for_another_account_is_never_sent(broker: Broker, collector: ScriptedCollector) -> None:
    other = KafkaReceiver(kafka_settings(broker.address, application_id="another"))
    assert other.send([event("theirs", request={"time": NOW})]).reason == "acknowledged"
    with Forward(broker, collector):
        (dead,) = broker.records(f"{TOPIC}.dead")
    assert dict(dead.headers() or [])["moesif-reason"] == b"it is for another application ID"
    assert collector.posts() == []


def test_members_killed_at_random_and_rebalances_lose_nothing(broker: Broker, collector: ScriptedCollector) -> None:
    """Seeded: two members, each round one is killed or ended and another joins.

    Each waits for its partitions: of a group whose members all leave within a moment, the broker of these tests gives
    none to those that join.
    """
    rng = random.Random(13)
    collector.script = lambda _received: Answer(503) if rng.random() < 0.1 else None
    writer = Writer(broker)
    members = [Forward(broker, collector), Forward(broker, collector)]
    try:
        for _ in range(6):
            wait_until(lambda: all(ASSIGNED in member.output for member in members))
            before = len(collector.unique_ids())
            writer.write(400)
            collector.wait_for(before + rng.randrange(1, 200), timeout=60)
            victim = members.pop(rng.randrange(2))
            victim.kill() if rng.random() < 0.7 else victim.stop()
            members.append(Forward(broker, collector))
        collector.wait_for(2400, timeout=90)
    finally:
        for member in members:
            member.__exit__(None, None, None)
    assert collector.unique_ids() == writer.ids


def test_partitions_that_were_paused_before_they_were_given_out_anew_are_read_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library keeps them paused, also where another member had some of them in between."""
    forwarder = Forwarder(kafka_settings(broker.address, application_id="A"), "group")
    calls: list[str] = []
    monkeypatch.setattr(forwarder, "_consumer", consumer := Mock())
    consumer.pause.side_effect = lambda _: calls.append("pause")
    consumer.resume.side_effect = lambda _: calls.append("resume")
    forwarder._sender.health.down_since = 1.0
    forwarder._pace()
    forwarder._assigned(consumer, [])
    forwarder._sender.health.down_since = None
    forwarder._pace()
    forwarder._pace()
    assert calls == ["pause", "resume"]


def test_workers_share_the_partitions_and_are_one_in_status_metrics_and_health(
    broker: Broker, collector: ScriptedCollector
) -> None:
    writer = Writer(broker)
    with Forward(broker, collector, "--workers", "2", admin_listen="127.0.0.1:0") as forward:
        wait_until(lambda: "status and metrics at" in forward.output)
        (url,) = re.findall(r"status and metrics at (\S+)", forward.output)
        writer.write(300)
        collector.wait_for(300, timeout=30)
        wait_until(lambda: requests.get(f"{url}/status", timeout=5).json()["delivered"] >= 300)
        status = requests.get(f"{url}/status", timeout=5).json()
        assert status["captured"] == status["delivered"] + sum(status["waiting"].values()) + sum(
            status["dropped"].values()
        )
        assert "moesif_events_delivered_total 300" in requests.get(f"{url}/metrics", timeout=5).text.replace(".0", "")
        assert requests.get(f"{url}/health", timeout=5).json() == {"status": "ok"}
        assert requests.get(f"{url}/plugins", timeout=5).status_code == 404
        assert forward.stop() == 0
        assert exit_counts(forward.output)["delivered"] == 300
    assert collector.unique_ids() == writer.ids


def press_ctrl_c(forward: Forward, _sent_more: Callable[[], object]) -> None:
    os.killpg(forward.process.pid, signal.SIGINT)


def end_all_processes(forward: Forward, sent_more: Callable[[], object]) -> None:
    """As a service manager does, which may be slow."""
    forward.process.send_signal(signal.SIGTERM)
    sent_more()
    for worker in forward.workers:
        os.kill(worker, signal.SIGTERM)


@pytest.mark.parametrize("end", [press_ctrl_c, end_all_processes])
def test_an_end_that_reaches_the_workers_too_is_one_end(
    broker: Broker, collector: ScriptedCollector, end: Callable[[Forward, Callable[[], object]], None]
) -> None:
    collector.script = lambda _received: Answer(delay=0.2)
    Writer(broker).write(1500)
    with Forward(broker, collector, "--workers", "2") as forward:
        collector.wait_for(100, timeout=30)
        end(forward, lambda: collector.wait_for(len(collector.ids()) + 50))
        assert forward.process.wait(30) == 0
        counts = exit_counts(forward.output)
    assert (counts["captured"], counts["waiting"]) == (counts["delivered"], 0)
    assert counts["delivered"] == len(collector.ids())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_end_while_nothing_can_be_sent_tells_what_stays_in_the_topic(
    broker: Broker, collector: ScriptedCollector, workers: str
) -> None:
    collector.refuse()
    Writer(broker).write(100)
    with Forward(broker, collector, "--workers", workers, shutdown_timeout=100) as forward:
        wait_until(lambda: "the receiver is unavailable" in forward.output)
        assert forward.stop(signal.SIGHUP) == 0
        counts = exit_counts(forward.output)
    assert counts["waiting"] == counts["captured"] > 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_end_waits_for_no_broker_that_hangs(broker: Broker, collector: ScriptedCollector, workers: str) -> None:
    writer = Writer(broker)
    writer.write(100)
    with Forward(broker, collector, "--workers", workers, shutdown_timeout=100) as forward:
        collector.wait_for(100, timeout=30)
        broker.pause()
        try:
            assert forward.stop() == 0
        finally:
            broker.resume()
        assert "no broker accepted the last offsets in time" in forward.output
        assert exit_counts(forward.output)["delivered"] == 100
    assert collector.unique_ids() == writer.ids


def test_the_group_may_give_out_partitions_as_its_members_want(broker: Broker, collector: ScriptedCollector) -> None:
    writer = Writer(broker)
    writer.write(100)
    strategy = "session.timeout.ms=6000,partition.assignment.strategy=cooperative-sticky"
    with Forward(broker, collector, kafka_config=strategy) as forward:
        collector.wait_for(100, timeout=30)
        assert forward.stop() == 0
    assert collector.unique_ids() == writer.ids


def test_a_broker_that_hangs_in_between_loses_nothing(broker: Broker, collector: ScriptedCollector) -> None:
    writer = Writer(broker)
    writer.write(100)
    with Forward(broker, collector) as forward:
        collector.wait_for(100, timeout=30)
        broker.pause()
        broker.resume()
        writer.write(100)
        collector.wait_for(200, timeout=60)
        forward.stop()
    assert collector.unique_ids() == writer.ids


def test_a_start_does_not_wait_for_a_broker(collector: ScriptedCollector) -> None:
    with Broker(running=False) as broker, Forward(broker, collector) as forward:
        wait_until(lambda: "no broker can be reached" in forward.output)
        broker.start()
        broker.create(TOPIC, 1)
        writer = Writer(broker)
        writer.write(10)
        collector.wait_for(10, timeout=60)
        assert forward.stop() == 0


def test_wrong_credentials_are_told_once_without_showing_them(broker: Broker, collector: ScriptedCollector) -> None:
    config = "security.protocol=sasl_plaintext,sasl.mechanisms=PLAIN,sasl.username=ada,sasl.password=correct-horse"
    with Forward(broker, collector, kafka_config=config) as forward:
        wait_until(lambda: "the broker does not accept the credentials" in forward.output)
        assert forward.stop() == 0
        assert forward.output.count("the broker does not accept the credentials") == 1
        assert "correct-horse" not in forward.output


def test_events_can_go_to_a_file_instead(broker: Broker, collector: ScriptedCollector, tmp_path: Path) -> None:
    writer = Writer(broker)
    writer.write(10)
    path = tmp_path / "events"
    with Forward(broker, collector, application_id="", sink_file=path):
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) == 10)
    assert {json.loads(line)["transaction_id"] for line in path.read_text().splitlines()} == writer.ids
