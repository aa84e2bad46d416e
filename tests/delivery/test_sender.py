"""Requests under way together, and events that a receiver will not take."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mitmproxy_moesif.config.destination import quarantine_of
from mitmproxy_moesif.delivery import attempt, sender
from tests.delivery.pipelines import an_instance, chunk_for, sending
from tests.delivery.spool.spools import adopted, dead_spool
from tests.support.collector import Answer, Event, Received, ScriptedCollector, refuse_events

MANY = [f"e{number}" for number in range(1000)]


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as collector:
        yield collector


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as short as can be."""
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(sender, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(sender, "UNAUTHORIZED_PAUSE", 0.01)
    monkeypatch.setattr(attempt, "PAUSES", (0.001, 0.001))


def named(*ids: str) -> Callable[[Event], bool]:
    return lambda event: event["transaction_id"] in ids


def test_several_requests_are_under_way_at_a_time(collector: ScriptedCollector) -> None:
    """The fourth one is answered only once there are three more."""
    under_way, four = [0], threading.Condition()

    def together(_: Received) -> None:
        with four:
            under_way[0] += 1
            four.notify_all()
            if under_way[0] == 4:
                assert four.wait_for(lambda: under_way[0] >= 7, 10)

    collector.script = together
    instance = an_instance(collector, batch_size=25)
    with sending(None, instance) as proxy:
        proxy.put(instance, *MANY)
        collector.wait_for(1000)
    assert sorted(collector.ids()) == sorted(MANY)


def test_an_id_from_outside_is_a_part_of_one_line(
    collector: ScriptedCollector, caplog: pytest.LogCaptureFixture
) -> None:
    worst = "x\n2026 ERROR\x1b[31m" + 200_000 * "x"
    collector.script = refuse_events(named(worst))
    instance = an_instance(collector)
    with sending(None, instance) as proxy, caplog.at_level("ERROR", "moesif"):
        proxy.put(instance, worst, "after")
        collector.wait_for(1)
    (said,) = caplog.messages
    assert said.startswith(r"moesif: the receiver refused event x\n2026 ERROR\x1b[31m")
    assert said.endswith("... (status 400)")
    assert len(said) < 250


def test_a_sender_that_is_not_needed_any_more_waits_for_its_request(collector: ScriptedCollector) -> None:
    asked, answering = threading.Event(), threading.Event()

    def slowly(_: Received) -> None:
        asked.set()
        assert answering.wait(10)

    collector.script = slowly
    instance = an_instance(collector)
    with sending(None, instance) as proxy:
        proxy.put(instance, "e1")
        assert asked.wait(10)
        (one,) = proxy.pipeline._senders.values()
        one.stop(math.inf)
        answering.set()
        assert one.join(time.monotonic() + 10)
    assert not proxy.end.faults


def test_a_backlog_goes_in_growing_batches(tmp_path: Path, collector: ScriptedCollector) -> None:
    instance = an_instance(collector, batch_size=10)
    chunks = [chunk_for(instance.destination, MANY[at : at + 10]) for at in range(0, 1000, 10)]
    dead_spool(tmp_path / "spool", chunks)
    with sending(tmp_path / "spool", instance):
        collector.wait_for(1000)
    assert sorted(collector.ids()) == sorted(MANY)
    assert max(len(post.ids) for post in collector.posts()) > 100


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [403, 404, 415, 500, 503])
@pytest.mark.parametrize("at", [0, 30, 59])
def test_an_event_that_alone_keeps_failing_is_quarantined_and_the_rest_goes_on(
    status: int, at: int, tmp_path: Path, collector: ScriptedCollector
) -> None:
    collector.script = refuse_events(named(MANY[at]), status)
    instance = an_instance(collector)
    with sending(tmp_path / "spool", instance) as proxy:
        proxy.put(instance, *MANY[:60])
        collector.wait_for(59)
        proxy.put(instance, *MANY[60:200])
        collector.wait_for(199)
    assert (proxy.end.delivered, proxy.end.waiting, proxy.end.dropped) == (199, 1, {})
    assert proxy.condition.unsent[quarantine_of(instance.destination)].state == "quarantined"
    (spool,) = adopted(tmp_path / "spool")
    (row,) = spool.index()
    assert row.destination == quarantine_of(instance.destination)
    assert spool.load(row.key).transaction_ids == (MANY[at],)
    spool.close()


@pytest.mark.usefixtures("hasty")
def test_an_event_that_came_alone_stops_no_later_one(tmp_path: Path, collector: ScriptedCollector) -> None:
    collector.script = refuse_events(named("poison"), 500)
    instance = an_instance(collector)
    with sending(tmp_path / "spool", instance) as proxy:
        proxy.put(instance, "poison")
        collector.wait_for(lambda collector: len(collector.posts()) > 4)
        for number in range(20):
            proxy.put(instance, MANY[number])
            collector.wait_for(number + 1)
    assert (proxy.end.delivered, proxy.end.waiting) == (20, 1)


@pytest.mark.usefixtures("hasty")
def test_without_a_disk_what_would_be_quarantined_is_refused(collector: ScriptedCollector) -> None:
    collector.script = refuse_events(named("e7", "e8"), 404)
    instance = an_instance(collector)
    with sending(None, instance) as proxy:
        proxy.put(instance, *MANY[:60])
        collector.wait_for(58)
    assert (proxy.end.delivered, proxy.end.waiting, proxy.end.dropped) == (58, 0, {"refused": 2})


@pytest.mark.parametrize("at_once", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_who_asks_for_no_pause_gets_growing_ones(at_once: str, collector: ScriptedCollector) -> None:
    """A thousand requests a second otherwise, for as long as the collector says so."""
    collector.script = lambda _: Answer(503, {"Retry-After": at_once})
    instance = an_instance(collector)
    with sending(None, instance) as proxy:
        proxy.put(instance, "e1")
        collector.wait_for(lambda c: len(c.posts()) >= 4)
        collector.script = lambda _: None
        collector.wait_for(1, timeout=30)
    times = [post.at for post in collector.posts()]
    assert times[3] - times[0] > 0.25 + 0.5 + 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("answer", [Answer(500), Answer(403), Answer(429), Answer(how="reset")])
def test_an_outage_quarantines_nothing(answer: Answer, tmp_path: Path, collector: ScriptedCollector) -> None:
    """However long it lasts, and though events were accepted before."""
    instance = an_instance(collector)
    with sending(tmp_path / "spool", instance) as proxy:
        proxy.put(instance, *MANY[:20])
        collector.wait_for(20)
        collector.enqueue(*[answer] * 30)
        proxy.put(instance, *MANY[20:100])
        collector.wait_for(100)
    assert (proxy.end.delivered, proxy.end.waiting, proxy.end.dropped) == (100, 0, {})


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [401, 403])
def test_the_application_id_is_blamed_only_where_nothing_was_accepted_with_it(
    status: int, collector: ScriptedCollector, caplog: pytest.LogCaptureFixture
) -> None:
    instance = an_instance(collector)
    blame = f"does not accept the application id (status {status})"
    with sending(None, instance) as proxy:
        collector.enqueue(Answer(status))
        proxy.put(instance, "a")
        collector.wait_for(1)
        assert blame in caplog.text
        caplog.clear()
        collector.enqueue(Answer(status))
        proxy.put(instance, "b")
        collector.wait_for(2)
    assert f"(status {status})" in caplog.text
    assert blame not in caplog.text
