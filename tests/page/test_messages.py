"""Events of any maker on the traffic page: shown and written, whatever they have or lack."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given

from mitmproxy_moesif.local.exchanges import ReceivedExchanges
from mitmproxy_moesif.local.intake import read_batch
from mitmproxy_moesif.local.store import EventStore
from mitmproxy_moesif.page import bodies, forms, view
from mitmproxy_moesif.page.messages import left_out, message
from tests.local.events import encode
from tests.local.test_exchanges import strange_events

ENCODED = base64.b64encode(b"plain text").decode()


def side(**members: Any) -> dict[str, Any]:
    found = message({"request": members}, "request")
    assert found is not None
    return dict(found)


def test_headers_have_names_in_lower_case() -> None:
    assert side(headers={"Content-Type": "text/plain"})["headers"] == {"content-type": "text/plain"}
    assert side()["headers"] == side(headers="none")["headers"] == {}


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        ({"body": {"a": 1}}, ({"a": 1}, "json")),
        ({"body": {"a": 1}, "transfer_encoding": "base64"}, ({"a": 1}, "json")),
        ({"body": "no base64!", "transfer_encoding": "base64"}, ("no base64!", "json")),
        ({"body": ENCODED, "transfer_encoding": "base64"}, (ENCODED, "base64")),
        ({"body": ENCODED, "transfer_encoding": None}, (ENCODED, "json")),
        ({"body": None, "transfer_encoding": "json"}, (None, "json")),
    ],
)
def test_a_body_is_what_it_can_be(members: dict[str, Any], shown: tuple[Any, str]) -> None:
    found = side(**members)
    assert (found["body"], found["transfer_encoding"]) == shown


def test_no_body_is_none() -> None:
    assert "body" not in side(body=None)
    assert "body" not in side(body=None, transfer_encoding="base64")


def test_a_side_that_is_none_is_told_so() -> None:
    assert message({}, "response") is None
    assert message({"response": "200 OK"}, "response") is None


@given(strange_events)
def test_any_event_that_a_collector_takes_is_shown_and_exported(event: dict[str, Any]) -> None:
    with EventStore() as store:
        store.add(read_batch(encode(event)))
        exchanges = ReceivedExchanges(store)
        (row,) = exchanges.newest()["exchanges"]
        detail = json.loads(exchanges.answer({"id": row["id"]}))
    assert view.list_row(row)["id"] == row["id"]
    assert view.why(detail)[-1] == "Its event was sent: received by this collector."
    assert view.timing(row) is not None
    for name in ("request", "response"):
        if (shown := message(event, name)) is not None:
            assert bodies.headers(shown["headers"], {})
            assert bodies.body(shown, left_out(event, name), {})
    assert forms.curl(event).startswith("curl")
    assert json.loads(json.dumps(forms.har([detail])))["log"]["entries"]
    assert forms.ndjson([detail]).count("\n") == 1
