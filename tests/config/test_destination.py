"""Names of queues: who shares one, and who sends what is left in one."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from mitmproxy_moesif.config.destination import account_of, destination_of, heir_of
from mitmproxy_moesif.config.settings import parse_settings

HERE = {"application_id": "one", "api_endpoint": "http://here.test"}
OLD = hashlib.sha256(b"one").hexdigest()[:16]


def destination(**parameters: Any) -> str:
    return destination_of(parse_settings({**HERE, **parameters}))


@pytest.mark.parametrize(
    "parameters",
    [
        {"application_id": "two"},
        {"api_endpoint": "http://there.test"},
        {"api_endpoint": "http://here.test/collector"},
        {"enable_compression": True},
        {"connect_timeout": 10},
        {"send_timeout": 10},
        {"timeout": 10},
        {"keepalive": 10},
        {"batch_size": 10},
        {"batch_max_bytes": 10_000},
        {"flush_interval": 10},
        {"max_callback_time_spent": 10},
        {"sink_file": "/tmp/events"},
    ],
)
def test_what_decides_how_an_event_is_sent_decides_its_queue(parameters: dict[str, Any]) -> None:
    assert destination(**parameters) != destination()


def test_what_shapes_an_event_does_not_decide_its_queue() -> None:
    assert destination(request_body_masks=["password"], api_version="2", debug=True) == destination()


def test_rules_are_those_of_an_application_id_at_a_collector() -> None:
    accounts = {account_of(parse_settings({**HERE, **more})) for more in ({}, {"batch_size": 7}, {"send_timeout": 9})}
    assert accounts == {f"{OLD}@here.test"}
    assert account_of(parse_settings({**HERE, "api_endpoint": "http://there.test"})) not in accounts


def test_the_application_id_is_not_told() -> None:
    assert "secret-id" not in destination(application_id="secret-id")


def test_a_queue_named_by_an_older_release_is_sent_by_its_account() -> None:
    assert heir_of(OLD, [destination(application_id="two"), destination()]) == destination()
    assert heir_of("file", [destination_of(parse_settings({"sink_file": "/tmp/events"}))]) is not None


def test_changed_settings_send_what_the_former_ones_left() -> None:
    there, changed = destination(api_endpoint="http://there.test"), destination(batch_size=7)
    assert heir_of(destination(), [there, changed]) == changed
    assert heir_of(destination(), [changed, there]) == changed
    assert heir_of(destination(), [there]) == there


def test_nobody_sends_for_an_account_that_is_not_configured() -> None:
    assert heir_of(destination(), [destination(application_id="two")]) is None
