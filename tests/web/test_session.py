"""Calls that end at their deadline."""

from __future__ import annotations

import time

import pytest
import requests

from mitmproxy_moesif.web.session import DeadlineSession
from tests.support.collector import Answer, ScriptedCollector


@pytest.mark.parametrize(
    "answer",
    [Answer(how="hang"), Answer(drip=0.05), Answer(body=b"x" * 5000, drip=0.05)],
    ids=["no answer", "a slow head", "a slow body"],
)
def test_a_call_ends_at_its_deadline_and_the_session_can_be_used_again(answer: Answer) -> None:
    with ScriptedCollector() as collector, DeadlineSession() as session:
        collector.enqueue(answer)
        began = time.monotonic()
        with pytest.raises((requests.RequestException, OSError)), session.deadline(0.3):
            session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30)
        assert 0.25 < time.monotonic() - began < 10
        with session.deadline(30):
            assert session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30).status_code == 401


def test_a_deadline_does_not_outlive_its_call() -> None:
    with ScriptedCollector() as collector, DeadlineSession() as session:
        with session.deadline(0.2):
            session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30)
        collector.enqueue(Answer(201, delay=0.5))
        assert session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30).status_code == 201


def test_it_knows_whether_it_has_a_connection() -> None:
    with ScriptedCollector() as collector, DeadlineSession() as session:
        before: bool = session.connected
        session.post(f"{collector.url}/v1/events/batch", b"[]", timeout=30)
        assert session.connected
        session.close()
        left: bool = session.connected
    assert (before, left) == (False, False)
