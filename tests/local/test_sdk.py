"""Moesif's own clients, with the local collector as their endpoint: the library, middleware for WSGI and for Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from moesifapi.configuration import Configuration
from moesifapi.models import CompanyModel, EventModel, SubscriptionModel, UserModel
from moesifapi.moesif_api_client import MoesifAPIClient

from mitmproxy_moesif.local.profiles import KINDS
from mitmproxy_moesif.local.server import LocalStack
from tests.local.events import APPLICATION, make_event

CLIENTS = Path(__file__).parent / "clients"


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


def test_the_library_tells_of_users_companies_and_subscriptions(local: LocalStack, api: Any) -> None:
    api.update_user(UserModel.from_dictionary({"user_id": "ada", "metadata": {"plan": "gold"}}))
    api.update_users_batch([UserModel.from_dictionary({"user_id": name}) for name in ("ada", "bob")])
    api.update_company(CompanyModel.from_dictionary({"company_id": "acme"}))
    api.update_companies_batch([CompanyModel.from_dictionary({"company_id": "ajax"})])
    subscription = {"subscription_id": "s1", "company_id": "acme", "status": "active"}
    api.update_subscription(SubscriptionModel.from_dictionary(subscription))
    assert names(local) == {"users": ["bob", "ada"], "companies": ["ajax", "acme"], "subscriptions": ["s1"]}
    assert json.loads(local.profiles.find("users", "ada") or "")["metadata"] == {"plan": "gold"}


NODE = Path(sys.prefix) / "node" / "node_modules"


def node() -> list[str]:
    program = shutil.which("node")
    assert program is not None, "this test needs Node: apt-get install nodejs npm"
    assert (NODE / "moesif-nodejs").is_dir(), f"this test needs moesif-nodejs: make {Path(sys.prefix).name}/.node"
    return [program, str(CLIENTS / "node_client.js")]


def wsgi() -> list[str]:
    return [sys.executable, str(CLIENTS / "wsgi_client.py")]


@pytest.mark.parametrize(("client", "subscriptions"), [(wsgi, []), (node, ["s1"])])
def test_middleware_sends_an_event_and_tells_of_callers(
    local: LocalStack, client: Callable[[], list[str]], subscriptions: list[str]
) -> None:
    """In gzip, as the event of an application that it was put in front of."""
    environment = {**os.environ, "NODE_PATH": str(NODE)}
    ended = subprocess.run(
        [*client(), local.collector_url], env=environment, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 0, ended.stderr
    ((event,),) = [[json.loads(one.raw) for one in local.store.newest(10)]]
    assert event["request"]["uri"].endswith("/orders")
    assert (event["user_id"], event["response"]["status"]) == ("ada", 200)
    assert event["response"]["body"]["made"] == f"by {client.__name__}"
    told = {"users": ["cy", "bob", "ada"], "companies": ["ajax", "acme"], "subscriptions": subscriptions}
    assert names(local) == told
    assert json.loads(local.profiles.find("users", "ada") or "")["metadata"] == {"plan": "gold"}


def names(local: LocalStack) -> dict[str, list[str]]:
    """Of those that were told of, newest first."""
    return {kind: [json.loads(one)[name] for one in local.profiles.newest(kind, 10)] for kind, name in KINDS.items()}
