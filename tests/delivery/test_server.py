"""What the two sides say to each other where it depends on the moment."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict

import pytest

from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.api import Condition
from mitmproxy_moesif.delivery.builder import Builder
from mitmproxy_moesif.delivery.ledger import NOTHING
from mitmproxy_moesif.delivery.pipeline import Pipeline
from mitmproxy_moesif.delivery.protocol import Message, packed
from mitmproxy_moesif.delivery.thread import DeliveryThread
from mitmproxy_moesif.event.exchange import Exchange


def an_exchange(number: int) -> Exchange:
    return Exchange(str(number), "http", "h", "GET", b"/", "HTTP/1.1", "127.0.0.1", time.time(), ())


def test_what_is_told_later_is_never_older(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread looks, another is asked meanwhile. The proxy takes what it hears last for how things are."""
    first, second, go_on = threading.Event(), threading.Event(), threading.Event()
    look = Pipeline.condition

    def slow(pipeline: Pipeline) -> Condition:
        seen = look(pipeline)
        if first.is_set():
            second.set()
        else:
            first.set()
            go_on.wait(10)
        return seen

    monkeypatch.setattr(Pipeline, "condition", slow)
    heard: list[Message] = []
    server = DeliveryThread(heard.append)
    server.send(packed(("open", None, 10_000_000, asdict(NOTHING), (0, False))))
    assert first.wait(10)
    server.send(packed(("report", 7)))
    second.wait(0.2)  # in vain where the one who is asked waits its turn
    go_on.set()
    server.send(packed(("close",)))
    server.wait(10)
    said = [(name, more) for name, _, *more in heard]
    assert said[0] == ("report", [])
    assert ("report", [7]) in said
    assert said[-1] == ("closed", [])


def test_an_event_that_is_refused_settles_none_of_those_ahead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three wait to be built when the fourth turns out to be unreadable: the proxy has to keep all of them."""
    monkeypatch.setattr(Builder, "start", lambda _: None)
    heard: list[Message] = []
    server = DeliveryThread(heard.append)
    settings = protocol.from_settings(parse_settings({"application_id": "a"}))
    readable = [(1, protocol.from_exchange(an_exchange(number))) for number in (1, 2, 3)]
    server.send(packed(("open", None, 10_000_000, asdict(NOTHING), (0, False))))
    server.send(packed(("instance", 1, "options", settings, None)))
    server.send(packed(("exchanges", 1, [*readable, (1, ("what is this?",))])))
    server.send(packed(("report", 7)))
    server.send(packed(("close",)))
    server.wait(10)
    (reading,) = (condition["reading"] for _, condition, *more in heard if more == [7])
    assert reading["settled"] == 0
