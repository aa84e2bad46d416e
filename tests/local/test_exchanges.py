"""The received events as the traffic page asks for them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.local.exchanges import ReceivedExchanges
from mitmproxy_moesif.local.intake import RefusedError, read_batch
from mitmproxy_moesif.local.server import LocalStack
from mitmproxy_moesif.local.store import EventStore
from tests.local.events import encode, make_event

ORDER: dict[str, Any] = {
    "request": {
        "time": "2026-11-22T09:05:07.042Z",
        "uri": "https://api.example.com/orders/7?a=1",
        "verb": "POST",
        "headers": {"Content-Type": "application/json"},
        "body": {"a": 1},
        "transfer_encoding": "json",
    },
    "response": {"time": "2026-11-22T09:05:07.142Z", "status": 201, "headers": {}},
    "user_id": "ada",
    "company_id": "acme",
    "weight": 3,
}


def fill(store: EventStore, *events: dict[str, Any]) -> None:
    store.add(read_batch(encode(*events)))


def asked(exchanges: ReceivedExchanges, **query: Any) -> Any:
    return json.loads(exchanges.answer(query))


def listed(exchanges: ReceivedExchanges, **query: Any) -> list[str]:
    return [row["id"] for row in asked(exchanges, **query)["exchanges"]]


def test_a_row_says_what_the_event_does() -> None:
    with EventStore() as store:
        fill(store, {**ORDER, "transaction_id": "t1"})
        (row,) = asked(ReceivedExchanges(store))["exchanges"]
    told = ("id", "time", "method", "status", "host", "path", "user", "company", "ms", "weight", "state")
    assert [row[name] for name in told] == [
        *("t1", "2026-11-22T09:05:07.042Z", "POST", 201, "api.example.com", "/orders/7?a=1"),
        *("ada", "acme", 100.0, 3, "sent"),
    ]


def test_the_event_is_told_as_it_came() -> None:
    text = encode(make_event(metadata="?")).decode().replace('"?"', '{"b": 1.10, "a": 12345678901234567890123}')
    with EventStore() as store:
        store.add(read_batch(text.encode()))
        assert text[1:-1] in ReceivedExchanges(store).answer({"id": "id-1"}).decode()


def test_newest_first_filtered_and_paged() -> None:
    with EventStore() as store:
        fill(store, *(make_event(number, user_id=f"u{number % 2}") for number in range(130)))
        exchanges = ReceivedExchanges(store)
        first = asked(exchanges, limit=2, filter="user:u1")
        assert [row["id"] for row in first["exchanges"]] == ["id-129", "id-127"]
        assert listed(exchanges, limit=2, filter="user:u1", before=first["next"]) == ["id-125", "id-123"]
        assert asked(exchanges, limit=65, filter="user:u1")["next"] is None
        assert (first["kept"], first["seen"]) == (130, 130)
        assert asked(exchanges, stats=True, filter="user:u1")["exchanges"] == 65


def test_what_comes_after_a_list_was_told_can_be_asked_for() -> None:
    with EventStore() as store:
        exchanges = ReceivedExchanges(store)
        fill(store, make_event(1))
        changed = asked(exchanges)["changed"]
        assert listed(exchanges, changed_after=changed) == []
        fill(store, make_event(1), make_event(2))
        assert listed(exchanges, changed_after=changed) == ["id-2"]


def test_what_the_store_forgets_is_gone() -> None:
    with EventStore(keep_events=2) as store:
        exchanges = ReceivedExchanges(store)
        fill(store, make_event(1))
        assert listed(exchanges) == ["id-1"]
        fill(store, make_event(2), make_event(3))
        assert listed(exchanges) == ["id-3", "id-2"]
        assert asked(exchanges, id="id-1") is None
        store.clear()
        assert listed(exchanges) == []
        fill(store, make_event(1))
        assert listed(exchanges) == ["id-1"]


def test_an_event_without_an_id_goes_by_its_number() -> None:
    with EventStore() as store:
        fill(store, ORDER, ORDER)
        exchanges = ReceivedExchanges(store)
        assert listed(exchanges) == ["number-2", "number-1"]
        assert asked(exchanges, id="number-1")["event"] == ORDER


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
sides = st.fixed_dictionaries(
    {"time": st.just("2026-11-22T09:05:07"), "uri": st.text(min_size=1), "verb": st.text(min_size=1)},
    optional={"headers": values, "body": values, "transfer_encoding": values, "status": values},
)
strange_events = st.fixed_dictionaries(
    {"request": sides},
    optional={
        "response": sides | values,
        "metadata": values | st.fixed_dictionaries({"kong": values, "error": values, "body_omitted": values}),
        "weight": values,
        "blocked_by": values,
        "transaction_id": st.none() | st.text(),
        "user_id": st.none() | st.text(st.characters()),
    },
)


@given(strange_events)
def test_whatever_is_taken_can_be_shown(event: dict[str, Any]) -> None:
    with EventStore() as store:
        fill(store, event)
        exchanges = ReceivedExchanges(store)
        (name,) = listed(exchanges)
        assert asked(exchanges, id=name)["event"] == event
        assert asked(exchanges, stats=True)["exchanges"] == 1
        assert listed(exchanges, filter="not ms:>5 not size:>5 status:>0") in ([], [name])


@pytest.mark.parametrize(
    "time",
    [
        *("0001-01-01T00:00:00", "9999-12-31T23:59:59.999Z", "1969-01-01", "2026-11-22T09:05:07+02:00"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999-14:00"),
    ],
)
def test_any_time_that_is_taken_can_be_shown(time: str) -> None:
    request = {**make_event()["request"], "time": time}
    with EventStore() as store:
        fill(store, make_event(request=request, response={"time": "yesterday", "status": 200}))
        exchanges = ReceivedExchanges(store)
        assert asked(exchanges)["exchanges"][0]["ms"] is None
        assert asked(exchanges, stats=True)["exchanges"] == 1


def test_what_is_nested_as_deep_as_is_taken_has_a_row() -> None:
    deep = encode(make_event(metadata="?")).decode()
    with EventStore() as store:
        for depth in (500, 990, 5000, 100_000):
            text = deep.replace('"?"', "[" * depth + "]" * depth).replace("id-1", f"{depth}")
            with suppress(RefusedError):
                store.add(read_batch(text.encode()))
        exchanges = ReceivedExchanges(store)
        assert listed(exchanges)
        for name in listed(exchanges):
            assert exchanges.answer({"id": name})


def get(local: LocalStack, path: str, **headers: str) -> requests.Response:
    return requests.get(local.page_url + path, headers=headers, timeout=10)


def test_the_paths_are_those_of_the_admin_listener(local: LocalStack) -> None:
    local.store.add(read_batch(encode(make_event(1), make_event(2))))
    assert [row["id"] for row in get(local, "/exchanges?limit=1").json()["exchanges"]] == ["id-2"]
    assert get(local, "/exchanges/id-1").json()["event"] == make_event(1)
    assert get(local, "/exchanges/none").status_code == 404
    assert get(local, "/stats").json()["exchanges"] == 2
    refused = get(local, "/exchanges?filter=stats:5xx")
    assert (refused.status_code, "there is no term" in refused.json()["message"]) == (400, True)
    with requests.get(f"{local.page_url}/exchanges/stream?changed_after=0", stream=True, timeout=10) as stream:
        lines = stream.iter_lines()
        assert json.loads(next(line for line in lines if line.startswith(b"data: "))[6:])["id"] == "id-1"


def test_only_who_names_this_machine_is_answered(local: LocalStack) -> None:
    local.store.add(read_batch(encode(make_event(1))))
    for path in ("/exchanges", "/exchanges/id-1", "/exchanges/stream", "/stats"):
        assert get(local, path, Host="evil.example").status_code == 403
