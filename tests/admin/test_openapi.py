"""The OpenAPI document, and the listener held against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from mitmproxy_moesif.admin.handlers import admin_app
from mitmproxy_moesif.admin.openapi import document
from mitmproxy_moesif.admin.server import admin_server
from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.recent.store import RecentExchanges
from mitmproxy_moesif.web.access import Address, Gate
from tests.admin.sources import FakeSource
from tests.recent.kept import build, raising
from tests.support.events import an_exchange

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    negative_data_rejection,
]
schema = schemathesis.openapi.from_dict(document()).exclude(path_regex="/(stream|metrics|ping)")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    source = FakeSource()
    source.exchanges = RecentExchanges(Keep(10), raising)
    build(source.exchanges, an_exchange([("Host", "h"), ("Cookie", "x")], [], target=b"/orders"))
    source.exchanges.moved([an_exchange().transaction_id], "sent", "status 201")
    server = admin_server("127.0.0.1:0", None, source)
    server.start()
    yield server.url
    server.stop()


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_document_says(case: schemathesis.Case[Any], url: str) -> None:
    case.call_and_validate(base_url=url, checks=CHECKS)


def test_the_kept_exchange_fits_the_document(url: str) -> None:
    transaction_id = an_exchange().transaction_id
    answer = requests.get(f"{url}/exchanges/{transaction_id}", timeout=10)
    operation = schema["/exchanges/{transaction_id}"]["GET"]
    operation.validate_response(schemathesis.Response.from_any(answer))
    assert answer.json()["removed"] == [{"where": "request.headers.cookie", "by": "credential_headers"}]


def test_the_listener_hands_it_out(url: str) -> None:
    assert requests.get(f"{url}/openapi.json", timeout=10).json() == document()


def test_each_path_of_the_document_is_there() -> None:
    app = admin_app(FakeSource(), Gate(Address("127.0.0.1", 0), None))
    (rules,) = [rule.target.rules for rule in app.default_router.rules if hasattr(rule.target, "rules")]
    patterns = [rule.matcher.regex for rule in rules]
    for path in document()["paths"]:
        assert any(pattern.match(path.replace("{transaction_id}", "x")) for pattern in patterns), path
