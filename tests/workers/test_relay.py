"""The Admin API of several workers as one, with workers that only remember what they were asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.workers.control import NOTHING, Worker
from mitmproxy_moesif.workers.messages import Answer, Request
from mitmproxy_moesif.workers.relay import Relay, destinations, spool, together

READING = Reading(10, 1, 4, 3, 2, {"refused": 1}, {"build": 2}, 5)


class Place:
    """Stands for a worker: keeps what PATCH says, gives what `script` says for the rest."""

    def __init__(self, number: int, script: Callable[[Request], Answer | None] | None = None) -> None:
        self.number = number
        self.ready = asyncio.Event()
        self.ready.set()
        self.process = object()
        self.asked: list[Request] = []
        self.state: dict[str, Any] = {}
        self.script = script

    async def ask(self, request: Request) -> Answer | None:
        await asyncio.sleep(0)
        self.asked.append(request)
        if self.script is not None:
            return self.script(request)
        if request.method == "PATCH":
            self.state |= json.loads(request.body)
        return Answer(200, (("Content-Type", "application/json"),), json.dumps(self.state).encode())


def relay(*places: Place, reading: Reading = READING) -> Relay:
    return Relay(cast(Sequence[Worker], places), lambda: reading)


def run[T](what: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(what)


def patch(**fields: Any) -> Request:
    return Request("PATCH", "/plugins/moesif", "application/json", body=json.dumps(fields).encode())


def always(status: int, /, **content: Any) -> Callable[[Request], Answer]:
    return lambda _: Answer(status, body=json.dumps(content).encode())


def test_a_change_goes_to_all_and_the_first_answers() -> None:
    places = Place(1), Place(2), Place(3)
    answer = run(relay(*places).answer(patch(debug=True)))
    assert json.loads(answer.body) == {"debug": True}
    assert [len(place.asked) for place in places] == [1, 1, 1]


def test_what_the_first_refuses_reaches_nobody_else_and_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    first, second, late = Place(1, always(400, message="no")), Place(2), Place(3)
    late.ready.clear()
    together_ = relay(first, second, late)
    assert run(together_.answer(patch(debug=1))).status == 400
    run(together_.catch_up(cast(Worker, late)))
    assert second.asked == late.asked == []
    assert late.ready.is_set()
    assert not caplog.records


def test_a_worker_that_does_not_take_a_change_is_named(caplog: pytest.LogCaptureFixture) -> None:
    places = Place(1), Place(2, lambda _: None), Place(3, always(500))
    assert run(relay(*places).answer(patch(debug=True))).status == 200
    assert [record.getMessage() for record in caplog.records] == [
        "moesif-proxy: worker 2 differs now: to PATCH /plugins/moesif it did not answer",
        "moesif-proxy: worker 3 differs now: to PATCH /plugins/moesif it answered 500",
    ]


def test_a_read_is_asked_of_one_that_answers() -> None:
    silent, speaks, third = Place(1, lambda _: None), Place(2), Place(3)
    assert run(relay(silent, speaks, third).answer(Request("GET", "/plugins?size=1"))).status == 200
    assert [request.path for request in speaks.asked] == ["/plugins?size=1"]
    assert third.asked == []


def test_nobody_is_ready() -> None:
    place = Place(1)
    place.ready.clear()
    nobody = relay(place)
    for request in (Request("GET", "/health"), Request("GET", "/plugins"), patch(a=1)):
        answer = run(nobody.answer(request))
        assert (answer.status, b"no worker is ready" in answer.body) == (503, True)
    assert run(nobody.answer(Request("GET", "/ping"))).status == 200
    status = json.loads(run(nobody.answer(Request("GET", "/status/"))).body)
    assert (status["captured"], status["workers"]) == (10, {"ready": 0, "wanted": 1})


def test_health_is_that_of_the_worker_that_is_worst() -> None:
    well, ill = Place(1, always(200, status="ok")), Place(2, always(503, status="unhealthy", reason="old"))
    answer = run(relay(well, ill).answer(Request("GET", "/health")))
    assert (answer.status, json.loads(answer.body)["reason"]) == (503, "old")
    ill.ready.clear()
    assert run(relay(well, ill).answer(Request("GET", "/health"))).status == 200


fields = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), min_size=1)


@given(st.lists(fields, max_size=12))
def test_a_worker_started_later_comes_to_the_same_state(changes: list[dict[str, int]]) -> None:
    async def story() -> tuple[Place, Place]:
        always_there, late = Place(1), Place(2)
        late.ready.clear()
        both = relay(always_there, late)
        for change in changes:
            await both.answer(patch(**change))
        await both.catch_up(cast(Worker, late))
        return always_there, late

    always_there, late = run(story())
    assert late.state == always_there.state
    assert late.ready.is_set()
    assert len(late.asked) == len({request.body for request in late.asked})


def test_a_worker_that_ended_meanwhile_is_not_ready() -> None:
    place = Place(1)
    place.ready.clear()
    place.process = None  # type: ignore[assignment]
    run(relay(place).catch_up(cast(Worker, place)))
    assert not place.ready.is_set()


def test_what_the_state_file_has_given_already_is_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    first, late = Place(1, always(201)), Place(2, always(409))
    late.ready.clear()
    both = relay(first, late)
    run(both.answer(Request("POST", "/plugins", "application/json", body=b'{"name": "moesif"}')))
    run(both.catch_up(cast(Worker, late)))
    assert len(late.asked) == 1
    assert not caplog.records


def test_the_worst_of_each_receiver_and_of_the_spools() -> None:
    told = [{"a": {"state": "up"}, "b": {"state": "up"}}, {"a": {"state": "unauthorized", "reason": "status 401"}}]
    assert destinations(cast(Any, told)) == {"a": told[1]["a"], "b": {"state": "up"}}
    spools = [
        {"state": "on", "bytes": 3, "max_bytes": 10},
        {"state": "failing", "reason": "r", "bytes": 4, "max_bytes": 10},
    ]
    assert spool(cast(Any, spools)) == {"state": "failing", "reason": "r", "bytes": 7, "max_bytes": 20}
    assert spool(cast(Any, [{"state": "off"}, {"state": "off"}])) == {"state": "off"}


def test_what_only_one_can_tell_is_told() -> None:
    told = [{"captured": 1, "oldest_waiting": None, "kong": {"x": 1}}, {"captured": 2, "oldest_waiting": 4.0}]
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
