"""The Admin API of several workers as one, with workers that only remember what they were asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import NOTHING, Reading
from mitmproxy_moesif.workers.control import Worker
from mitmproxy_moesif.workers.messages import Answer, Request
from mitmproxy_moesif.workers.relay import Relay, destinations, spool, together, unsent

READING = Reading(10, 1, 4, 3, 2, {"refused": 1}, {"build": 2}, 5)


class Place:
    """Stands for a worker: changes its document as PATCH says, gives what `script` says for the rest."""

    def __init__(self, number: int, script: Callable[[Request], Answer | None] | None = None) -> None:
        self.number = number
        self.ready = asyncio.Event()
        self.ready.set()
        self.version = self.reloads = self.reloaded = self.restarts = 0
        self.process = object()
        self.asked: list[Request] = []
        self.orders: list[str] = []
        self.state: dict[str, Any] = {}
        self.script = script
        self.takes = True

    async def ask(self, request: Request) -> Answer | None:
        await asyncio.sleep(0)
        self.asked.append(request)
        if self.script is not None:
            return self.script(request)
        if request.method == "PATCH":
            self.state = {**self.state, **json.loads(request.body)}
        return Answer(200, (("Content-Type", "application/json"),), json.dumps(self.state).encode())

    async def demand(self, what: str, **more: Any) -> dict[str, Any] | None:
        match what:
            case "answer":
                answer = await self.ask(Request.from_json(more["request"]))
                return None if answer is None else {"answer": answer.to_json(), "document": self.state}
            case "take" if self.takes:
                self.order(what, **more)
                return {"version": self.version}
            case "take":
                return {"fault": "cannot be"}
            case "reload":
                self.reloaded += 1
                return {}
        return None

    def order(self, what: str, **more: Any) -> None:
        self.orders.append(what)
        if "document" in more:
            self.state, self.version = more["document"], more["version"]


def relay(*places: Place, reading: Reading = READING, state: Path | None = None) -> Relay:
    """Asks places that have started."""
    made = Relay(cast(Sequence[Worker], places), lambda: reading, dict)
    for place in places:
        start(made, place, state)
    return made


def start(relay: Relay, place: Place, state: Path | None = None) -> None:
    relay.greet(cast(Worker, place), str(state) if state is not None else None)


def run[T](what: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(what)


def patch(**fields: Any) -> Request:
    return Request("PATCH", "/plugins/moesif", "application/json", body=json.dumps(fields).encode())


def always(status: int, /, **content: Any) -> Callable[[Request], Answer]:
    return lambda _: Answer(status, body=json.dumps(content).encode())


def test_a_change_goes_to_all_and_the_one_that_tried_it_answers() -> None:
    places = Place(1), Place(2), Place(3)
    answer = run(relay(*places).answer(patch(debug=True)))
    assert json.loads(answer.body) == {"debug": True}
    assert [(place.state, len(place.asked)) for place in places] == [({"debug": True}, n) for n in (1, 0, 0)]


def test_what_is_refused_reaches_nobody_else_and_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "kept.json"
    first, second, late = Place(1, always(400, message="no")), Place(2), Place(3)
    both = relay(first, second, state=path)
    assert run(both.answer(patch(debug=1))).status == 400
    start(both, late)
    assert first.state == second.state == late.state == {}
    assert second.asked == []
    assert not path.exists()
    assert not caplog.records


def test_what_cannot_be_kept_is_undone_where_it_was_tried(tmp_path: Path) -> None:
    first, second, late = Place(1), Place(2), Place(3)
    (tmp_path / "none").mkdir()
    both = relay(first, second, state=tmp_path / "none" / "kept.json")
    (tmp_path / "none").rmdir()
    answer = run(both.answer(patch(config={"debug": True})))
    assert (answer.status, b"nothing was changed" in answer.body) == (500, True)
    start(both, late)
    assert first.state == second.state == late.state == {}
    (tmp_path / "none").mkdir()
    assert run(both.answer(patch(config={"batch_size": 3}))).status == 200
    assert first.state == second.state == {"config": {"batch_size": 3}}


@pytest.mark.parametrize("status", [None, 500])
def test_a_change_that_is_not_answered_is_undone(status: int | None) -> None:
    def changes(_: Request) -> Answer | None:
        first.state = {"config": {"debug": True}}
        return Answer(status) if status is not None else None

    first, second = Place(1, changes), Place(2)
    both = relay(first, second)
    assert run(both.answer(patch(debug=True))).status == (status or 503)
    assert first.state == second.state == {}
    first.script = None
    assert run(both.answer(patch(config={"debug": False}))).status == 200


def test_a_worker_that_does_not_take_a_change_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    first, refuses = Place(1), Place(2)
    both = relay(first, refuses)
    refuses.takes = False
    assert run(both.answer(patch(debug=True))).status == 200
    assert refuses.orders[-1] == "end"
    assert [record.getMessage() for record in caplog.records] == [
        "moesif-proxy: worker 2 rejects the changes: cannot be"
    ]
    first.ready.clear()
    assert run(both.answer(Request("GET", "/plugins"))).status == 503


def test_the_file_is_read_once_and_told_to_all(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text('{"config": {"debug": true}}')
    places = Place(1), Place(2)
    both = relay(*places, state=path)
    assert [place.state for place in places] == [{"config": {"debug": True}}] * 2
    path.unlink()
    start(both, late := Place(3), path)
    assert late.state == places[0].state


def test_a_file_that_cannot_be_read_is_told_to_the_worker_that_starts(tmp_path: Path) -> None:
    place = Place(1)
    told: list[dict[str, Any]] = []
    place.order = lambda _, **more: told.append(more)  # type: ignore[method-assign]
    relay(place, state=tmp_path)
    assert told == [{"fault": f"admin_state: {tmp_path}: Is a directory"}]


def test_a_worker_that_starts_while_options_are_read_again_reads_them_too() -> None:
    running, late = Place(1), Place(2)
    both = relay(running, late)
    late.ready.clear()
    run(both.reload())
    assert (running.reloaded, late.reloaded) == (1, 0)
    run(both.catch_up(cast(Worker, late)))
    run(both.catch_up(cast(Worker, late)))
    assert (running.reloaded, late.reloaded) == (1, 1)


def test_a_read_is_asked_of_one_that_answers() -> None:
    silent, speaks, third = Place(1, lambda _: None), Place(2), Place(3)
    assert run(relay(silent, speaks, third).answer(Request("GET", "/plugins?size=1"))).status == 200
    assert [request.path for request in speaks.asked] == ["/plugins?size=1"]
    assert third.asked == []


def test_nobody_is_ready() -> None:
    place = Place(1)
    nobody = relay(place)
    place.ready.clear()
    for request in (Request("GET", "/health"), Request("GET", "/plugins"), patch(a=1)):
        answer = run(nobody.answer(request))
        assert (answer.status, b"no worker is ready" in answer.body) == (503, True)
    assert run(nobody.answer(Request("GET", "/ping"))).status == 200
    status = json.loads(run(nobody.answer(Request("GET", "/status/"))).body)
    assert (status["captured"], status["workers"]) == (10, {"ready": 0, "wanted": 1, "restarts": 0})


def test_health_is_that_of_the_worker_that_is_worst() -> None:
    well, ill = Place(1, always(200, status="ok")), Place(2, always(503, status="unhealthy", reason="old"))
    answer = run(relay(well, ill).answer(Request("GET", "/health")))
    assert (answer.status, json.loads(answer.body)["reason"]) == (503, "old")
    ill.ready.clear()
    assert run(relay(well, ill).answer(Request("GET", "/health"))).status == 200


fields = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), min_size=1)


@given(st.lists(fields, max_size=12))
def test_a_worker_started_later_comes_to_the_same_state(changes: list[dict[str, int]]) -> None:
    async def story() -> tuple[Place, Place, Place]:
        always_there, starting, late = Place(1), Place(2), Place(3)
        all_ = relay(always_there, starting, late)
        starting.ready.clear()
        late.ready.clear()
        for change in changes:
            await all_.answer(patch(**change))
        start(all_, late)
        for place in (starting, late):
            await all_.catch_up(cast(Worker, place))
        return always_there, starting, late

    always_there, *others = run(story())
    for place in others:
        assert (place.state, place.version) == (always_there.state, always_there.version)
        assert place.ready.is_set()


def test_a_worker_that_ended_meanwhile_is_not_ready() -> None:
    place = Place(1)
    nobody = relay(place)
    place.ready.clear()
    place.process = None
    run(nobody.catch_up(cast(Worker, place)))
    assert not place.ready.is_set()


def test_the_worst_of_each_receiver_and_of_the_spools() -> None:
    told = [{"a": {"state": "up"}, "b": {"state": "up"}}, {"a": {"state": "unauthorized", "reason": "status 401"}}]
    assert destinations(cast(Any, told)) == {"a": told[1]["a"], "b": {"state": "up"}}
    spools = [
        {"state": "on", "bytes": 3, "max_bytes": 10},
        {"state": "failing", "reason": "r", "bytes": 4, "max_bytes": 10},
    ]
    assert spool(cast(Any, spools)) == {"state": "failing", "reason": "r", "bytes": 7, "max_bytes": 20}
    assert spool(cast(Any, [{"state": "off"}, {"state": "off"}])) == {"state": "off"}


def test_what_nobody_sends_of_all_workers() -> None:
    one, other = ({"a": {"state": "quarantined", "events": n, "since": f"2026-01-0{n}"}} for n in (1, 2))
    assert unsent(cast(Any, [one, other])) == {"a": {"state": "quarantined", "events": 3, "since": "2026-01-01"}}


def test_what_carries_the_exchanges_of_all_workers() -> None:
    told: list[dict[str, Any]] = [
        {"engines": {"fast": 2, "mitmproxy": 0}},
        {"engines": {"fast": 1, "mitmproxy": 0}},
        {},
    ]
    assert together(told, READING)["engines"] == {"fast": 3, "mitmproxy": 0}


def test_what_only_one_can_tell_is_told() -> None:
    told: list[dict[str, Any]] = [
        {"captured": 1, "oldest_waiting": None, "kong": {"x": 1}},
        {"captured": 2, "oldest_waiting": 4.0},
    ]
    status = together(told, READING)
    assert (status["captured"], status["oldest_waiting"], status["kong"]) == (10, 4.0, {"x": 1})
    assert together([], NOTHING)["oldest_waiting"] is None


binary, words = st.binary(max_size=50), st.text(max_size=20)


@given(words, words, words, words, binary)
def test_requests_survive_the_pipe(method: str, path: str, content_type: str, accept: str, body: bytes) -> None:
    request = Request(method, path, content_type, accept, body)
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request


@given(st.integers(100, 599), st.lists(st.tuples(words, words)), binary)
def test_answers_survive_the_pipe(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    answer = Answer(status, tuple(headers), body)
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer
