"""No event is larger than Moesif takes, whatever came."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import pytest

from mitmproxy_moesif.event import size
from mitmproxy_moesif.event.size import MAX_EVENT_BYTES, NAMED, encode
from tests.support.events import an_exchange, event_of

MB = 1_000_000


def plain_event(**parts: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "request": {"time": "2026-11-25T00:00:00.000", "uri": "http://h/", "verb": "GET", "headers": {"host": "h"}},
        "response": {"time": "2026-11-25T00:00:00.000", "status": 200, "headers": {"server": "s"}},
        "transaction_id": "t",
        "direction": "Incoming",
        "weight": 1,
    }
    for name, value in parts.items():
        event[name] = {**event[name], **value} if name in event and isinstance(value, dict) else value
    return event


@pytest.mark.parametrize("headers", [5, 50, 5000])
def test_an_event_holds_no_more_memory_than_its_bytes(headers: int) -> None:
    event = plain_event(request={"headers": {f"x-{number}": "v" for number in range(headers)}})
    tracemalloc.start()
    try:
        encoded = encode(event)
        encoding = tracemalloc.Filter(True, size.__file__)  # other threads may allocate meanwhile
        ours = tracemalloc.take_snapshot().filter_traces([encoding])
        assert sum(trace.size for trace in ours.traces) < len(encoded) + 500
    finally:
        tracemalloc.stop()


def test_bodies_go_first() -> None:
    exchange = an_exchange(request_body=b"q" * 400_000, response_body=b"s" * 900_000)
    event = event_of(exchange, request_max_body_size_limit=2_000_000, response_max_body_size_limit=2_000_000)
    assert base64.b64decode(event["request"]["body"]) == b"q" * 400_000
    assert event["metadata"] == {"body_omitted": {"response": "too_large"}}


def test_the_largest_members_are_left_out_by_name() -> None:
    fields = [("Host", "h"), ("X-Large", "x" * 20 * MB), ("X-Larger", "y" * 21 * MB), ("X-Small", "z")]
    event = event_of(an_exchange(fields, [("X-Also", "é" * MB)]))
    assert event["request"]["headers"] == {"host": "h", "x-small": "z"}
    assert event["metadata"]["omitted"] == [
        "request.headers.x-larger",
        "request.headers.x-large",
        "response.headers.x-also",
    ]
    assert event["metadata"]["omitted_count"] == 3


@pytest.mark.parametrize(
    "parts",
    [
        {"request": {"headers": {f"x-{number}": "v" * 100 for number in range(200_000)}}},
        {"request": {"headers": {"x" * 2 * MB: "v"}}},
        {"request": {"uri": "http://h/" + "\x00" * 3 * MB}},
        {"request": {"verb": "G" * 3 * MB, "uri": "\U0001f600" * MB, "ip_address": "1" * MB}},
        {"user_id": "u" * MB, "company_id": "c" * MB, "session_token": "s" * MB, "blocked_by": "b" * MB},
        {"metadata": {"a": ["x" * MB], "b": {"c": {"d": "x" * MB}}, "big": [2**70] * 100_000}},
        {"transaction_id": "t" * 2 * MB},
        {"other": {"x": "y" * 2 * MB}},
        {"response": {"headers": {f"{number}" + "\u0001" * 3_000: "v" for number in range(1_000)}}},
    ],
)
def test_whatever_is_large_the_event_fits(parts: dict[str, Any]) -> None:
    encoded = encode(plain_event(**parts))
    assert len(encoded) <= MAX_EVENT_BYTES
    event = json.loads(encoded)
    assert event["request"]["uri"].startswith(("http://h/", "\U0001f600"))
    assert (event["request"]["time"], event["response"]["status"]) == ("2026-11-25T00:00:00.000", 200)
    assert event["weight"] == 1
    assert 0 < len(event["metadata"]["omitted"]) <= min(NAMED, event["metadata"]["omitted_count"])


def test_what_fits_stays_as_it_is() -> None:
    event = plain_event(metadata={"large": "x" * (MAX_EVENT_BYTES - 400)})
    assert json.loads(encode(event)) == plain_event(metadata={"large": "x" * (MAX_EVENT_BYTES - 400)})
