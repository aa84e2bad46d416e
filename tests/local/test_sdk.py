"""Moesif's own client library, with the local collector as its `api_endpoint`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from moesifapi.configuration import Configuration
from moesifapi.models import EventModel
from moesifapi.moesif_api_client import MoesifAPIClient

from mitmproxy_moesif.local.server import LocalStack
from tests.local.events import APPLICATION, make_event


@pytest.fixture
def api(local: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Configuration, "BASE_URI", local.collector_url)
    return MoesifAPIClient("any").api


def kept(local: LocalStack) -> list[str]:
    return [json.loads(event.raw)["request"]["uri"] for event in local.store.newest(10)]


def model(number: int) -> EventModel:
    return EventModel.from_dictionary(make_event(number))


def test_the_library_sends_a_single_event(local: LocalStack, api: Any) -> None:
    api.create_event(model(1))
    assert kept(local) == ["http://api.example.com/1"]


def test_the_library_sends_a_batch(local: LocalStack, api: Any) -> None:
    api.create_events_batch([model(1), model(2)])
    assert kept(local) == ["http://api.example.com/2", "http://api.example.com/1"]


def test_the_library_reads_what_was_put(local: LocalStack, api: Any) -> None:
    config, rules = {"sample_rate": 37}, [{"_id": "r1", "type": "regex", "block": False}]
    for path, document in (("/v1/config", config), ("/v1/rules", rules)):
        requests.put(local.collector_url + path, json=document, headers=APPLICATION, timeout=10).raise_for_status()
    assert json.loads(api.get_app_config().raw_body) == config
    assert json.loads(api.get_governance_rules().raw_body) == rules
