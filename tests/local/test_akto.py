"""Akto's ingest service on the local collector: what it answers, and what its runtime would forget."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from mitmproxy_moesif.event.akto_record import akto_record
from mitmproxy_moesif.local.server import LocalStack
from tests.support.events import an_exchange, event_of


def a_record(**changes: Any) -> dict[str, Any]:
    exchange = an_exchange([("Host", "h")])
    return {**akto_record(event_of(exchange), exchange, "1000000"), **changes}


def ingest(local: LocalStack, content: Any) -> requests.Response:
    return requests.post(f"{local.collector_url}/api/ingestData", json=content, timeout=10)


def counts(local: LocalStack) -> Any:
    return requests.get(f"{local.collector_url}/api/ingestData", timeout=10).json()


def test_records_are_kept_and_counted_without_an_application_id(local: LocalStack) -> None:
    answer = ingest(local, {"batchData": [a_record(), a_record()]})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert counts(local) == {"kept": 2, "forgotten": {}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"requestPayload": " "}, "requestPayload is empty or cut JSON"),
        ({"requestPayload": '{"a": 1'}, "requestPayload is empty or cut JSON"),
        ({"time": "1.5"}, "time and statusCode must be digits"),
        ({"statusCode": ""}, "time and statusCode must be digits"),
        ({"method": None}, "a field is missing, or no string"),
        ({"requestHeaders": "{"}, "headers and tag must be JSON objects of strings"),
        ({"tag": '{"a": 1}'}, "headers and tag must be JSON objects of strings"),
    ],
)
def test_what_the_runtime_would_forget_is_accepted_and_counted_by_reason(
    local: LocalStack, changes: dict[str, Any], reason: str
) -> None:
    assert ingest(local, {"batchData": [a_record(**changes), a_record()]}).status_code == 200
    assert counts(local) == {"kept": 1, "forgotten": {reason: 1}}


@pytest.mark.parametrize("content", [[], {}, {"batchData": 1}, None])
def test_what_is_no_batch_is_refused_with_422(local: LocalStack, content: Any) -> None:
    answer = ingest(local, content)
    assert (answer.status_code, answer.json()) == (422, {"actionErrors": ["batchData must be a list"]})


def test_health(local: LocalStack) -> None:
    assert requests.get(f"{local.collector_url}/healthCheck", timeout=10).status_code == 200
