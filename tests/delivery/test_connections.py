"""Receivers that cannot be made, and threads that cannot be started."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import pytest

from mitmproxy_moesif.delivery import pipeline
from mitmproxy_moesif.delivery.connections import Connections
from mitmproxy_moesif.delivery.receivers.base import Outcome, Receiver, Verdict
from tests.delivery.pipelines import an_instance, sending
from tests.support.collector import ScriptedCollector


class Accepting:
    def send(self, _events: Sequence[bytes]) -> Outcome:
        return Outcome(Verdict.ACCEPTED)

    def close(self) -> None:
        pass


def first_failing(make: Callable[[], Receiver], error: Exception) -> Callable[[], Receiver]:
    """Once, as when descriptors have run out for a while."""
    errors = [error]
    return lambda: _raise(errors.pop()) if errors else make()


def _raise(error: Exception) -> Receiver:
    raise error


OUT_OF_DESCRIPTORS = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_job_whose_receiver_cannot_be_made_is_told_and_the_next_one_gets_one() -> None:
    connections = Connections("test", first_failing(Accepting, OUT_OF_DESCRIPTORS), 60)
    outcomes = SimpleQueue[Outcome]()
    for _ in range(2):
        connections.submit(lambda receiver: outcomes.put(receiver.send(())))
        outcome = outcomes.get(timeout=10)
    connections.close()
    assert outcome.verdict is Verdict.ACCEPTED


def test_it_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = SimpleQueue[Outcome]()
    connections = Connections("test", lambda: _raise(OUT_OF_DESCRIPTORS), 60)
    connections.submit(lambda receiver: outcomes.put(receiver.send(())))
    said = outcomes.get(timeout=10)
    assert (said.verdict, said.reason) == (Verdict.UNAVAILABLE, "no connection can be made: Too many open files")
    connections.close()

    monkeypatch.setattr(threading.Thread, "start", lambda _: _raise(RuntimeError("can't start new thread")))
    connections.submit(lambda receiver: outcomes.put(receiver.send(())))
    assert outcomes.get(timeout=10).verdict is Verdict.UNAVAILABLE


def test_what_waited_for_descriptors_is_sent_when_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver_for = pipeline.receiver_for
    errors = [OUT_OF_DESCRIPTORS] * 3

    def short(*arguments: Any) -> Receiver:
        return _raise(errors.pop()) if errors else receiver_for(*arguments)

    monkeypatch.setattr(pipeline, "receiver_for", short)
    with ScriptedCollector() as collector:
        instance = an_instance(collector, batch_size=1)
        with sending(None, instance) as proxy:
            proxy.put(instance, "one")
            collector.wait_for(1, timeout=30)
        assert proxy.end.delivered == 1
