"""Where every event is, read by one thread while others move events as fast as they can."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import pytest

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.builder import Captured
from mitmproxy_moesif.delivery.client import DeliveryClient
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.pipeline import Pipeline
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import NotSent
from tests.delivery.test_server import an_exchange

READINGS = 125_000
"""On each side."""

SETTINGS = {"application_id": "a", "event_queue_size": 50, "api_endpoint": "http://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Else each time that the queue fills up is in the log."""
    caplog.set_level(logging.CRITICAL, "moesif")


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns much more often than they do by default, so that each moment between two steps is seen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def read_while(read: Callable[[], Reading], *write: Callable[[], object]) -> list[Reading]:
    """The readings in which an event is missing or in two places."""
    done = threading.Event()

    def repeat(step: Callable[[], object]) -> None:
        while not done.is_set():
            step()

    threads = [threading.Thread(target=repeat, args=[step]) for step in write]
    with switching_often():
        for thread in threads:
            thread.start()
        seen = (read() for _ in range(READINGS))
        wrong = [one for one in seen if one.captured != one.delivered + one.waiting + sum(one.dropped.values())]
        done.set()
        for thread in threads:
            thread.join()
    return wrong


def test_every_reading_of_the_client_adds_up() -> None:
    """Exchanges are put and turned away while the delivery process reports what it has done."""
    client = DeliveryClient(None, 10_000_000, lambda *_: None)
    instance = Instance.compile(parse_settings(SETTINGS))
    client.configure([instance])
    reported = count(1)

    def put() -> None:
        client.put(instance, an_exchange(0))

    def report() -> None:
        done = min(next(reported), client.reading().captured - sum(client.reading().dropped.values()))
        said = replace(client._nothing, reading=Reading(done, 0, done, 0, 0, settled=done))
        client.heard(("report", protocol.from_condition(said)))

    assert read_while(client.reading, put, report) == []


def test_every_reading_of_the_pipeline_adds_up() -> None:
    """Exchanges are put by one thread, built, dropped and stored by another."""
    built, number = count(), count(1)

    def make(exchange: Exchange, instance: Instance, _finished: object) -> bytes | NotSent:
        return NotSent.SAMPLED_OUT if next(built) % 50 else b"{}"

    pipeline = Pipeline(None, 10_000_000, make, lambda *_: None, apart=False)
    instance = Instance.compile(parse_settings(SETTINGS))
    pipeline.configure([instance])
    pipeline.start()

    def put() -> None:
        if pipeline.reading().waiting < 50:
            pipeline.put(Captured(next(number), (instance, an_exchange(0))))

    try:
        assert read_while(lambda: pipeline.condition().reading, put) == []
    finally:
        pipeline.close()
