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


def test_akto_is_asked_for_nothing_but_an_answer(upstream: ScriptedUpstream) -> None:
    subject = a_subject(application_id="", akto_service_url=upstream.url, akto_api_key="s3cret")
    (finding,) = examine(subject)
    assert (finding.check, finding.level) == ("akto", "ok")
    (request,) = upstream.requests()
    assert (request.method, request.target) == ("HEAD", "/")
    assert "s3cret" not in finding.line() + repr(request)


def test_where_akto_is_not_reached_its_option_is_named() -> None:
    (finding,) = examine(a_subject(application_id="", akto_service_url="http://127.0.0.1:9"))
    assert (finding.check, finding.level) == ("akto", "failure")
    assert "akto_service_url" in finding.todo


def test_brokers_of_akto_are_connected_to(upstream: ScriptedUpstream) -> None:
    brokers = f"127.0.0.1:{upstream.port},127.0.0.1:9"
    found = list(examine(a_subject(application_id="", akto_transport="kafka", akto_kafka_brokers=brokers)))
    assert seen(found) == [("akto", "ok"), ("akto", "failure")]
    assert "akto_kafka_brokers" in found[1].todo
