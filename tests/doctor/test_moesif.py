"""Whether events are taken where they go, and whether the clock is right."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from mitmproxy_moesif.doctor.moesif import clock, examine
from tests.doctor.subjects import a_subject, seen
from tests.support import APPLICATION_ID
from tests.support.collector import Answer, ScriptedCollector
from tests.support.upstream import ScriptedUpstream


@pytest.mark.parametrize(("status", "level"), [(200, "ok"), (401, "failure"), (403, "failure"), (503, "failure")])
def test_the_answer_tells_whether_the_application_id_is_accepted(
    collector: ScriptedCollector, status: int, level: str
) -> None:
    collector.document_script = lambda _: Answer(status)
    (finding,) = examine(a_subject(api_endpoint=collector.url))
    assert finding.level == level
    (request,) = collector.requests()
    assert (request.method, request.path) == ("GET", "/v1/config")
    assert request.headers["x-moesif-application-id"] == APPLICATION_ID
    assert APPLICATION_ID not in finding.line()


def test_a_collector_that_is_not_there_is_a_failure() -> None:
    with ScriptedCollector(refusing=True) as collector:
        assert seen(examine(a_subject(api_endpoint=collector.url))) == [("moesif", "failure")]


@pytest.mark.parametrize(
    ("hours", "levels"),
    [(0, ["ok", "ok"]), (1, ["ok", "failure"]), (-1, ["ok", "failure"]), (1 / 60, ["ok", "warning"])],
)
def test_the_date_of_the_answer_tells_how_wrong_the_clock_is(
    collector: ScriptedCollector, hours: float, levels: list[str]
) -> None:
    collector.document_script = lambda _: Answer(200, {"Date": formatdate(time.time() + hours * 3600, usegmt=True)})
    assert [finding.level for finding in examine(a_subject(api_endpoint=collector.url))] == levels


@pytest.mark.parametrize("waited", [0, 4])
def test_a_slow_answer_is_no_wrong_clock(waited: int) -> None:
    now = 1_764_000_000.9
    for written in (now, now + waited):
        assert clock(formatdate(written, usegmt=True), now, now + waited).level == "ok"
    assert clock("yesterday", now, now).level == "warning"


def test_brokers_are_connected_to_instead(upstream: ScriptedUpstream) -> None:
    subject = a_subject(kafka_brokers=f"127.0.0.1:{upstream.port},127.0.0.1:9")
    assert seen(examine(subject)) == [("kafka", "ok"), ("kafka", "failure")]
