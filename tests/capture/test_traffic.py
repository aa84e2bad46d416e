"""What passes is counted, whatever becomes of it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.capture.traffic import BOUNDS, Traffic, together
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["options", "orders"]),
        st.none() | st.integers(-1, 1000),
        st.floats(-1, 100),
        st.booleans(),
    )
)


@given(REQUESTS, REQUESTS)
def test_two_readings_together_are_that_of_one_proxy(first: list[Any], second: list[Any]) -> None:
    one, other, both = Traffic(), Traffic(), Traffic()
    for traffic, requests in ((one, first), (other, second), (both, first + second)):
        for instance, status, seconds, blocked in requests:
            traffic.count(instance, status, seconds, blocked=blocked)
            traffic.failed("dns")
            traffic.waited(abs(seconds))
    total: Any = together([one.reading(), other.reading()])
    expected: Any = both.reading()
    for name in ("seconds", "added"):
        assert total[name].pop("sum") == pytest.approx(expected[name].pop("sum"))
    assert total == expected
    assert sum(sum(counts.values()) for counts in total["requests"].values()) == len(first) + len(second)


def test_buckets_hold_all_that_took_no_longer() -> None:
    traffic = Traffic()
    for seconds in (0.0, *BOUNDS, 11.0):
        traffic.count("options", 200, seconds, blocked=False)
    assert [*traffic.reading()["seconds"]["buckets"].values()] == [*range(2, len(BOUNDS) + 2), len(BOUNDS) + 2]


def test_an_upgraded_connection_has_no_duration() -> None:
    traffic = Traffic()
    traffic.count("options", 101, 5000, blocked=False)
    assert traffic.reading()["seconds"]["buckets"]["+Inf"] == 0
    assert traffic.reading()["requests"]["options"]["1xx"] == 1


@pytest.fixture(params=["mitmdump", "moesif_proxy"])
def start(request: pytest.FixtureRequest) -> Callable[..., Mitmdump]:
    started: Callable[..., Mitmdump] = request.getfixturevalue(request.param)
    return started


def traffic_of(proxy: Mitmdump) -> dict[str, Any]:
    (url,) = re.findall(r"Admin API.* at (http://\S+)", proxy.output)
    with urlopen(f"{url}/status") as answer:
        status: dict[str, Any] = json.load(answer)
    found: dict[str, Any] = status["traffic"]
    return found


def test_every_request_counts_captured_or_not(
    start: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/closes", lambda _, connection: connection.close())
    upstream.answer("/missing", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    proxy = start(upstream.url, addon_options(collector, skip="~u /skipped", admin_listen="127.0.0.1:0"))
    for path in ("/x", "/skipped", "/missing", "/closes"):
        exchange(proxy.port, "GET", path)
    exchange(proxy.port, "GET", "/two", [("Host", "h"), ("Host", "g")])
    told = traffic_of(proxy)
    counts = {name: count for name, count in told["requests"]["options"].items() if count}
    assert counts == {"2xx": 2, "4xx": 2, "5xx": 1}
    assert told["upstream_failures"]["closed"] == 1
    assert told["seconds"]["buckets"]["+Inf"] == 5
    assert proxy.stop() == 0


def test_what_is_not_captured_counts_too(
    start: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = start(upstream.url, addon_options(collector, enabled=False, admin_listen="127.0.0.1:0"))
    exchange(proxy.port, "GET", "/x")
    assert traffic_of(proxy)["requests"] == {
        "options": {"unanswered": 0, "1xx": 0, "2xx": 1, "3xx": 0, "4xx": 0, "5xx": 0}
    }


def test_workers_count_together_those_that_died_included(
    moesif_proxy: Callable[..., MoesifProxy], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    proxy = moesif_proxy(upstream.url, addon_options(collector, admin_listen="127.0.0.1:0"), workers=2)
    for _ in range(6):
        exchange(proxy.port, "GET", "/x")
    assert traffic_of(proxy)["requests"]["options"]["2xx"] == 6
    for worker in proxy.workers():
        os.kill(worker, signal.SIGKILL)
    proxy.wait_for_output("restarting in", count=2)
    told = traffic_of(proxy)
    assert told["requests"]["options"]["2xx"] == 6
    assert told["seconds"]["buckets"]["+Inf"] == 6
