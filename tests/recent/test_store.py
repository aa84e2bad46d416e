"""The newest exchanges: what is kept, what is told of each, and that a fault costs nobody anything."""

from __future__ import annotations

import gc
import json
import queue
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.recent import reader as reader_module
from mitmproxy_moesif.recent import store
from mitmproxy_moesif.recent.asked import ANSWER_SECONDS, TooLongError
from mitmproxy_moesif.recent.notes import Keep, Note, note_of
from mitmproxy_moesif.recent.reader import Reader
from mitmproxy_moesif.recent.records import Known
from mitmproxy_moesif.recent.store import BREATH, BYTES_EACH, MOVES_EACH, Moved, RecentExchanges
from tests.recent.kept import SECRET, build, kept, raising, told
from tests.support.events import an_exchange

HUNDRED = Keep(100)
LONE = rb'{"\ud800": {"x": 1}}'


def numbered(number: int, **fields: Any) -> Exchange:
    return replace(an_exchange([("Host", "h")], []), transaction_id=f"id-{number}", **fields)


def filled(count: int, keep: Keep = HUNDRED) -> RecentExchanges:
    recent = RecentExchanges(keep, raising)
    for number in range(count):
        build(recent, numbered(number))
    return recent


def ids(recent: RecentExchanges, wanted: str = "", **page: int) -> list[str]:
    return [row["id"] for row in recent.newest(wanted, **page)["exchanges"]]


def test_a_row_tells_what_the_event_tells() -> None:
    exchange = an_exchange(
        [("Host", "api.example.com"), ("X-User", "ada"), ("X-Company", "acme")],
        [("X-Kong-Proxy-Latency", "3"), ("X-Kong-Upstream-Latency", "20"), ("Via", "1.1 kong/3.9.3")],
        target=b"/orders/7?a=1",
        response_body=b"12345",
    )
    row = kept(exchange, user_id_header="x-user", company_id_header="x-company")
    assert (row["method"], row["status"], row["host"], row["path"]) == ("GET", 200, "api.example.com", "/orders/7?a=1")
    assert (row["user"], row["user_from"]) == ("ada", "user_id_header in the request")
    assert (row["company"], row["company_from"]) == ("acme", "company_id_header in the request")
    assert (row["kong_ms"], row["upstream_ms"], row["ms"]) == (3, 20, 58.0)
    assert (row["request_bytes"], row["response_bytes"], row["instance"]) == (0, 5, "options")
    assert row["event"] is not None
    assert row["event"]["request"]["uri"] == "http://api.example.com/orders/7?a=1"
    assert row["captured"] is None


def test_the_newest_come_first_page_by_page() -> None:
    recent = filled(10)
    first = recent.newest(limit=4)
    assert [row["id"] for row in first["exchanges"]] == ["id-9", "id-8", "id-7", "id-6"]
    assert first["next"] is not None
    assert ids(recent, limit=100, before=first["next"]) == [f"id-{number}" for number in (5, 4, 3, 2, 1, 0)]
    assert recent.newest(limit=10)["next"] is None


def test_only_a_number_of_them_is_kept() -> None:
    recent = filled(12, Keep(5))
    assert ids(recent) == [f"id-{number}" for number in (11, 10, 9, 8, 7)]
    listing = recent.newest()
    assert (listing["kept"], listing["seen"]) == (5, 12)
    assert recent.find("id-0") is None


def taken(keep: Keep) -> int:
    """Bytes, after exchanges with many headers."""
    recent = RecentExchanges(keep, raising)
    tracemalloc.start()
    try:
        for number in range(50):
            headers = [(f"{number}-{name}", "") for name in range(4000)]
            build(recent, replace(an_exchange(headers, []), transaction_id=f"id-{number}"))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw", [False, True])
def test_what_is_kept_takes_the_memory_that_is_promised_also_where_headers_are_many(*, raw: bool) -> None:
    assert taken(Keep(100, raw)) - taken(Keep(0)) < 1.5 * 100 * BYTES_EACH


def test_only_so_many_bytes_are_kept() -> None:
    recent = RecentExchanges(Keep(10), raising)
    for number in range(10):
        build(recent, numbered(number, response_body=Payload([b"x" * 3 * BYTES_EACH])))
    assert 1 <= recent.newest()["kept"] <= 3


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60_000)), max_size=40))
def test_memory_is_bounded_whatever_comes(came: list[tuple[int, int]]) -> None:
    recent = RecentExchanges(Keep(8, raw=True), raising)
    for number, size in came:
        build(recent, numbered(number, response_body=Payload([b"x" * size]), size=size))
        if number % 3 == 0:
            recent.newest()
        noted = [one for one in recent._notes if isinstance(one, Known)]
        known = [*(record.known for record in recent._records.values()), *noted]
        assert recent._bytes == sum(one.size for one in known) <= 8 * BYTES_EACH
        assert recent._records.keys() == recent._changed.keys()
        assert (len(known), len(noted)) == (recent._came + len(recent._records), recent._came)
        assert len(known) <= 8


def test_each_step_of_its_life_is_told() -> None:
    recent = filled(2)
    recent.moved(["id-0", "unknown"], "stored", "on disk")
    recent.moved(["id-0"], "retrying", "status 503")
    recent.moved(["id-0"], "sent", "status 201, request 2 with 1 events")
    detail = told(recent, "id-0")
    assert [step["step"] for step in detail["life"]] == ["captured", "built", "stored", "retrying", "sent"]
    assert detail["life"][-2]["detail"] == "status 503"
    assert (detail["state"], detail["cause"]) == ("sent", None)
    assert ids(recent, "state:waiting") == ["id-1"]


def test_steps_are_noted_within_bounds_though_nobody_asks() -> None:
    recent = filled(2, Keep(5))
    for _ in range(1000):
        recent.moved(["id-0", "id-1"], "retrying", "status 503")
        assert recent._moves == sum(len(one.ids) for one in recent._notes if isinstance(one, Moved)) <= 5 * MOVES_EACH
    recent.moved(["id-1"], "sent", "status 201, request 1 with 1 event")
    assert [(row["id"], row["state"]) for row in recent.newest()["exchanges"]] == [
        ("id-1", "sent"),
        ("id-0", "retrying"),
    ]


def test_what_is_forgotten_takes_its_steps_along() -> None:
    recent = RecentExchanges(Keep(3), raising)
    for number in range(20):
        build(recent, numbered(number))
        recent.moved([f"id-{number}"], "stored", "on disk")
    assert len(recent._notes) <= 2 * 3 + 1
    assert [(row["id"], row["state"]) for row in recent.newest()["exchanges"]] == [
        (f"id-{number}", "stored") for number in (19, 18, 17)
    ]


def test_what_changed_since_is_told() -> None:
    recent = filled(3)
    seen = recent.newest()["changed"]
    assert ids(recent, changed_after=seen) == []
    recent.moved(["id-1"], "stored", "on disk")
    build(recent, numbered(7))
    assert ids(recent, changed_after=seen) == ["id-7", "id-1"]


@pytest.mark.parametrize(("cause", "state"), [("sampled_out", "not_captured"), ("mask_failed", "dropped")])
def test_without_an_event_nothing_is_told_that_a_mask_could_remove(cause: str, state: str) -> None:
    recent = RecentExchanges(Keep(10), raising)
    instance = Instance.compile(parse_settings({"application_id": "x"}))
    exchange = numbered(1, target=f"/x?pin={SECRET}".encode(), response_body=Payload([SECRET.encode()]))
    recent.dropped(instance, exchange, cause)
    detail = told(recent, "id-1")
    assert (detail["state"], detail["cause"], detail["path"], detail["event"]) == (state, cause, "/x", None)
    assert SECRET not in json.dumps(detail)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a;pin=SECRET/b", "/a;pin=*****/b"),
        ("/a%3Bpin=SECRET", "/a%3Bpin=*****"),
        ("/a#pin=SECRET", "/a"),
        ("/a%3Fpin%3DSECRET", "/*****"),
        ("/a?pin=SECRET", "/a"),
    ],
)
def test_a_place_is_shown_with_its_parameters_masked_whether_there_is_an_event_or_not(target: str, path: str) -> None:
    instance = Instance.compile(parse_settings({"application_id": "x", "request_query_masks": ["pin"]}))
    recent = RecentExchanges(Keep(10), raising)
    exchange = numbered(1, target=target.replace("SECRET", SECRET).encode())
    recent.dropped(instance, exchange, "sampled_out")
    recent.noted([note_of(instance, replace(exchange, transaction_id="id-2"), "skip")])
    build(recent, replace(exchange, transaction_id="id-3"), request_query_masks=["pin"])
    assert [told(recent, f"id-{number}")["path"].partition("?")[0] for number in (1, 2)] == [path] * 2
    assert SECRET.encode() not in recent.answer({}) + recent.answer({"id": "id-3"}) + recent.answer({"stats": 1})


@pytest.mark.parametrize(
    ("authority", "host"), [("a;pin=SECRET", "a;pin=*****"), ("pin=SECRET:80", "pin=*****"), ("pin:8080", "pin:8080")]
)
def test_a_host_is_shown_with_its_parameters_masked(authority: str, host: str) -> None:
    instance = Instance.compile(parse_settings({"application_id": "x", "request_query_masks": ["pin"]}))
    recent = RecentExchanges(Keep(10), raising)
    recent.dropped(instance, numbered(1, authority=authority.replace("SECRET", SECRET)), "sampled_out")
    assert told(recent, "id-1")["host"] == host


@pytest.mark.parametrize(
    ("method", "shown"),
    [("GET /?pin=SECRET", "GET /?pin=*****"), ("GET/;pin=SECRET", "GET/;pin=*****"), ("GET", "GET")],
)
def test_a_malformed_method_is_shown_with_its_parameters_masked(method: str, shown: str) -> None:
    """It may be all of the first line."""
    instance = Instance.compile(parse_settings({"application_id": "x", "request_query_masks": ["pin"]}))
    recent = RecentExchanges(Keep(10), raising)
    exchange = numbered(1, method=method.replace("SECRET", SECRET))
    recent.dropped(instance, exchange, "sampled_out")
    build(recent, replace(exchange, transaction_id="id-2"), request_query_masks=["pin"])
    assert [told(recent, f"id-{number}")["method"] for number in (1, 2)] == [shown] * 2


def test_what_the_proxy_did_not_hand_over_is_told_too() -> None:
    recent = RecentExchanges(Keep(10), raising)
    recent.noted(
        [tuple(Note(f"n-{cause}", 1.0, None, "GET", "h", "/p", 200, cause)) for cause in ("skip", "queue_full")]
    )
    assert ids(recent, "state:not_captured") == ["n-skip"]
    assert ids(recent, "state:dropped cause:queue_full") == ["n-queue_full"]


def test_nothing_is_kept_where_nothing_shall_be() -> None:
    recent = filled(3, Keep(0))
    recent.noted([("no note",)])
    listing = recent.newest()
    assert (listing["exchanges"], listing["kept"], listing["seen"]) == ([], 0, 0)


def test_a_fault_is_told_and_costs_the_exchange_nothing() -> None:
    faults: list[str] = []
    recent = RecentExchanges(Keep(5), lambda kind, _error: faults.append(kind))
    recent.built(cast(Any, None), cast(Any, None), cast(Any, None), b"{}")
    recent.noted([("too", "short")])
    assert faults == ["recent exchanges", "recent exchanges"]


@pytest.mark.parametrize("body", [b'{"n": ' + b"9" * 400 + b"}", b"[" * 900 + b"]" * 900, LONE])
def test_an_event_that_is_hard_to_read_is_told_all_the_same(body: bytes) -> None:
    recent = RecentExchanges(Keep(5, raw=True), raising)
    build(recent, numbered(1, response_body=Payload([body])), response_body_masks=["x"])
    assert ids(recent, "status:200 path:/orders") == ["id-1"]
    assert body.removesuffix(b'{"x": 1}}') in recent.answer({"id": "id-1"})


def test_who_asks_is_answered_beside_the_commands() -> None:
    said: list[tuple[Any, ...]] = []
    done = threading.Event()

    def say(message: tuple[Any, ...]) -> None:
        said.append(message)
        if len(said) == 3:
            done.set()

    reader, recent = Reader(say), filled(1)
    reader.ask(recent, 1, {"id": "id-0"})
    reader.ask(recent, 2, {"filter": "no:such"})
    reader.ask(recent, 3, {"id": "none"})
    assert done.wait(20)
    assert [number for _, number, _ in said] == [1, 2, 3]
    assert json.loads(said[0][2])["id"] == "id-0"
    assert (said[1][2], said[2][2]) == (None, b"null")


class Clock:
    """Stands still but where it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.0

    def sleep(self, _seconds: float) -> None:
        """Between two looks at so many rows."""
        self.now += 3.0


@pytest.mark.parametrize("wanted", [{"stats": True}, {"filter": "not user:ada", "limit": 1000}])
def test_looking_ends_when_nobody_waits_any_more(wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recent = filled(2 * BREATH, Keep(2 * BREATH))
    monkeypatch.setattr(store, "time", Clock())
    with pytest.raises(TooLongError):
        recent.answer(wanted)
    assert json.loads(recent.answer({"limit": 10}))["kept"] == 2 * BREATH


def test_what_nobody_waits_for_any_more_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looked, go_on, said = Clock(), queue.SimpleQueue[Any](), threading.Event(), queue.SimpleQueue[Any]()

    class Slow(RecentExchanges):
        def answer(self, query: Any) -> bytes:
            looked.put(query)
            go_on.wait(20)
            clock.now += ANSWER_SECONDS
            if query == {"id": "1"}:
                raise TooLongError
            return b"{}"

    monkeypatch.setattr(reader_module, "time", clock)
    reader, recent = Reader(said.put), Slow()
    reader.ask(recent, 1, {"id": "1"})
    assert looked.get(timeout=20) == {"id": "1"}
    reader.ask(recent, 2, {"id": "2"})
    go_on.set()
    assert [said.get(timeout=20) for _ in range(2)] == [("recent", 1, None), ("recent", 2, None)]
    reader.ask(recent, 3, {"id": "3"})
    assert said.get(timeout=20) == ("recent", 3, b"{}")
    assert looked.get(timeout=20) == {"id": "3"}


def test_no_change_is_missed_by_who_asks_for_those_since_the_last() -> None:
    """While two threads note and a third asks."""
    recent, last = RecentExchanges(HUNDRED, raising), {"id-0": 0}
    done = threading.Event()

    def note() -> None:
        for number in range(300):
            build(recent, numbered(number % 50))
        done.set()

    def move() -> None:
        while not done.is_set():
            recent.moved([f"id-{number}" for number in range(0, 50, 7)], "stored", "on disk")

    threads = [threading.Thread(target=note), threading.Thread(target=move)]
    for thread in threads:
        thread.start()
    since, ending = 0, False
    while not ending:
        ending = not any(thread.is_alive() for thread in threads)
        listing = recent.newest(limit=1000, changed_after=since)
        last |= {row["id"]: row["changed"] for row in listing["exchanges"]}
        since = listing["changed"]
    assert last == {row["id"]: row["changed"] for row in recent.newest()["exchanges"]}


def test_where_a_hook_masks_nothing_is_told_that_it_could_have_masked(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text("def mask(event):\n    raise ValueError\n")
    instance = Instance.compile(parse_settings({"application_id": "x", "hooks": str(hooks)}))
    recent = RecentExchanges(Keep(5), raising)
    exchange = numbered(1, target=f"/{SECRET}".encode(), authority=SECRET, kong={"route_name": SECRET})
    recent.dropped(instance, exchange, "mask_failed")
    recent.noted([note_of(instance, replace(exchange, transaction_id="id-2"), "queue_full")])
    assert SECRET.encode() not in recent.answer({}) + recent.answer({"id": "id-1"})
    assert ids(recent, "status:200 method:get") == ["id-2", "id-1"]
