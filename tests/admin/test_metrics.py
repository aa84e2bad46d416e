"""The status as metrics."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from mitmproxy_moesif.admin.metrics import CAUSES, FAULTS, RECORD_CAUSES, exposition
from mitmproxy_moesif.admin.source import Status, receivers_of
from mitmproxy_moesif.capture.traffic import ADDED_BOUNDS, BOUNDS, STATUSES, TROUBLES, Traffic
from mitmproxy_moesif.delivery.ledger import NOTHING
from tests.admin.sources import FakeSource
from tests.support import REPOSITORY

type Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(status: Status) -> Samples:
    text, _ = exposition(status)
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def test_every_number_of_the_status_has_its_metric() -> None:
    zeros = {("moesif_events_dropped_total", (("cause", cause),)): 0 for cause in CAUSES}
    zeros |= {("moesif_faults_total", (("kind", kind),)): 0 for kind in FAULTS}
    assert samples(FakeSource().state) == zeros | {
        ("moesif_events_captured_total", ()): 30,
        ("moesif_events_recovered_total", ()): 2,
        ("moesif_events_delivered_total", ()): 20,
        ("moesif_exchanges_excluded_total", ()): 5,
        ("moesif_exchanges_skipped_total", ()): 5,
        ("moesif_exchanges_total", (("engine", "fast"),)): 7,
        ("moesif_exchanges_total", (("engine", "mitmproxy"),)): 2,
        ("moesif_uptime_seconds", ()): 61.5,
        ("moesif_oldest_waiting_seconds", ()): 12.25,
        ("moesif_events_waiting", (("where", "memory"),)): 3,
        ("moesif_events_waiting", (("where", "disk"),)): 4,
        ("moesif_events_unsent", (("state", "not configured"),)): 0,
        ("moesif_events_unsent", (("state", "quarantined"),)): 3,
        ("moesif_events_dropped_total", (("cause", "queue_full"),)): 2,
        ("moesif_events_dropped_total", (("cause", "refused"),)): 1,
        ("moesif_faults_total", (("kind", "sender"),)): 1,
        ("moesif_receiver_up", (("destination", "abc"),)): 1,
        ("moesif_receiver_up", (("destination", "def"),)): 0,
        ("moesif_spool_up", ()): 1,
        ("moesif_spool_bytes", ()): 4096,
        ("moesif_spool_max_bytes", ()): 1_000_000,
        ("moesif_workers", (("state", "ready"),)): 1,
        ("moesif_workers", (("state", "wanted"),)): 2,
        ("moesif_worker_restarts_total", ()): 3,
        ("moesif_build_info", (("version", "1.2.3"),)): 1,
    }


def test_what_the_status_does_not_tell_has_no_metric() -> None:
    assert samples({}) == {}
    assert samples({"oldest_waiting": None}) == {("moesif_oldest_waiting_seconds", ()): 0}
    assert samples({"destinations": {}, "spool": {"state": "off"}}) == {}


def test_all_counters_are_there_from_the_first_scrape_on() -> None:
    traffic = Traffic()
    traffic.expect(["options"])
    receivers = receivers_of(NOTHING, ["akto@h"])
    found = samples({"dropped": {}, "traffic": traffic.reading(), "faults": {}, "receivers": receivers})
    assert set(found.values()) == {0}
    histograms = len(BOUNDS) + len(ADDED_BOUNDS) + 2 * (1 + 2)
    counters = len(CAUSES) + len(STATUSES) + 1 + len(TROUBLES) + len(FAULTS)
    assert len(found) == counters + histograms + len(RECORD_CAUSES) + 3
    assert found["moesif_records_dropped_total", (("cause", "unavailable"), ("receiver", "akto@h"))] == 0
    traffic.count("options", 204, 0.03, blocked=True)
    traffic.failed("dns")
    traffic.waited(0.004)
    found = samples({"traffic": traffic.reading()})
    assert found["moesif_requests_total", (("moesif_instance", "options"), ("status", "2xx"))] == 1
    assert found["moesif_requests_blocked_total", ()] == 1
    assert found["moesif_upstream_failures_total", (("trouble", "dns"),)] == 1
    buckets = [value for (name, _), value in found.items() if name == "moesif_request_seconds_bucket"]
    assert buckets == [0, 0, 0, *[1] * (len(BOUNDS) - 2)]
    assert found["moesif_request_seconds_sum", ()] == 0.03
    buckets = [value for (name, _), value in found.items() if name == "moesif_added_latency_seconds_bucket"]
    assert buckets == [0, 0, *[1] * (len(ADDED_BOUNDS) - 1)]


def test_no_label_is_one_that_prometheus_gives_its_targets() -> None:
    """It would rename ours: `exported_instance`."""
    traffic = Traffic()
    traffic.expect(["options"])
    status: Status = {
        **FakeSource().state,
        "traffic": traffic.reading(),
        "receivers": receivers_of(NOTHING, ["akto@h"]),
    }
    labels = {label for _, pairs in samples(status) for label, _ in pairs}
    assert "moesif_instance" in labels
    assert not labels & {"instance", "job"}


def test_the_causes_are_those_of_the_readme() -> None:
    table = (REPOSITORY / "README.md").read_text().partition("| dropped because |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(CAUSES)


def test_a_word_is_a_cause_or_a_count_and_not_both() -> None:
    assert not {*CAUSES, *RECORD_CAUSES} & Status.__annotations__.keys()
    assert "excluded" in Status.__annotations__


def test_the_causes_of_records_are_those_of_the_page() -> None:
    page = (REPOSITORY / "compose" / "METRICS.md").read_text().partition("## Records for Akto")[2]
    table = page.partition("| dropped because |")[2].partition("\n\n")[0]
    told = [
        cause
        for row in table.splitlines()
        for cause in re.findall(r"`(\w+)`", row.split("|")[1:2][0] if "|" in row else "")
    ]
    assert sorted(told) == sorted(RECORD_CAUSES)


def test_a_disk_that_fails_is_down() -> None:
    assert samples({"spool": {"state": "failing", "reason": "full"}}) == {("moesif_spool_up", ()): 0}


def test_each_has_a_type_and_a_help() -> None:
    families = list(parse(exposition(FakeSource().state)[0].decode()))
    assert {family.type for family in families} == {"counter", "gauge"}
    assert all(family.documentation for family in families)


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", "text/plain", "*/*", "nonsense;;"])
def test_the_format_is_negotiated(accept: str) -> None:
    text, content_type = exposition(FakeSource().state, accept)
    if "openmetrics" in accept:
        assert content_type.startswith("application/openmetrics-text")
        assert list(parse_openmetrics(text.decode()))  # type: ignore[no-untyped-call]
    else:
        assert content_type.startswith("text/plain")
        assert list(parse(text.decode()))


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**53), max_size=4),
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.integers(0, 2**53),
)
def test_the_identity_survives_and_any_cause_is_a_label(
    dropped: dict[str, int], delivered: int, memory: int, disk: int
) -> None:
    captured = delivered + memory + disk + sum(dropped.values())
    status: Status = {
        "captured": captured,
        "delivered": delivered,
        "waiting": {"memory": memory, "disk": disk},
        "dropped": dropped,
    }
    found = samples(status)
    parts = ("moesif_events_delivered_total", "moesif_events_waiting", "moesif_events_dropped_total")
    total = sum(value for (name, _), value in found.items() if name in parts)
    assert total == pytest.approx(found["moesif_events_captured_total", ()])
    assert {labels[0][1] for (name, labels) in found if name == parts[2]} == dropped.keys() | CAUSES
