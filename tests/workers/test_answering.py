"""A worker's Admin API, asked in its own process."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, cast

import pytest

from mitmproxy_moesif.admin.source import SchemaViolation
from mitmproxy_moesif.workers.answering import Answering
from mitmproxy_moesif.workers.messages import Answer, Request
from tests.admin.sources import FakeSource


class Source(FakeSource):
    """With a document, of which one value is refused."""

    kept: Mapping[str, Any] = {"config": {}}

    def document(self) -> Mapping[str, Any]:
        return self.kept

    def take(self, document: Mapping[str, Any]) -> None:
        if document == {"config": {"batch_size": 0}}:
            raise SchemaViolation({"config": {"batch_size": "too small"}})
        self.kept = document


type Ask = Callable[[Request], Answer]


@pytest.fixture
def answering() -> Iterator[Answering]:
    answering = Answering(cast(Any, Source()))
    answering.start()
    yield answering
    answering.stop()


@pytest.fixture
def ask(answering: Answering) -> Ask:
    answers: queue.Queue[Answer] = queue.Queue()

    def asked(request: Request) -> Answer:
        answering.ask(request, lambda answer, _: answers.put(answer))
        return answers.get(timeout=10)

    return asked


def content(answer: Answer) -> Any:
    return json.loads(answer.body)


def test_the_listeners_paths(ask: Ask) -> None:
    assert ask(Request("GET", "/ping")).body == b"PONG"
    listed = ask(Request("GET", "/plugins"))
    assert listed.status == 200
    assert dict(listed.headers)["Content-Type"].startswith("application/json")
    assert content(listed)["data"]
    assert ask(Request("GET", "/no/such/path")).status == 404


def test_a_form_and_its_answer(ask: Ask) -> None:
    one = content(ask(Request("GET", "/plugins")))["data"][0]["id"]
    form = "application/x-www-form-urlencoded"
    answer = ask(Request("PATCH", f"/plugins/{one}", form, body=b"config.debug=true"))
    assert (answer.status, content(answer)["id"]) == (200, one)
    assert ask(Request("PATCH", f"/plugins/{one}", "text/plain", body=b"x")).status == 415


def test_a_body_that_is_too_large_and_a_method_that_is_not_there(ask: Ask) -> None:
    large = Request("PATCH", "/plugins/x", "application/json", body=b" " * 70_000)
    assert ask(large).status == 413
    refused = ask(Request("DELETE", "/status"))
    assert refused.status == 405
    assert "GET" in dict(refused.headers)["Allow"]


def test_headers_about_a_connection_are_not_passed_on(ask: Ask) -> None:
    names = {name.lower() for name, _ in ask(Request("GET", "/status")).headers}
    assert not names & {"content-length", "connection", "date", "server"}


def test_what_takes_its_time_holds_no_other_up(answering: Answering, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    slow: Future[bytes | None] = Future()
    monkeypatch.setattr(Source, "recent", lambda *_: slow)
    listed: queue.Queue[Answer] = queue.Queue()
    answering.ask(Request("GET", "/exchanges"), lambda answer, _: listed.put(answer))
    assert ask(Request("GET", "/health")).status == 200
    assert ask(Request("PATCH", "/plugins/orders", "application/json", "", b"{}")).status == 200
    slow.set_result(b"{}")
    assert listed.get(timeout=10).body == b"{}\n"


def test_a_document_is_taken_or_refused(answering: Answering) -> None:
    told: queue.Queue[Any] = queue.Queue()
    given = {"config": {"debug": True}}
    answering.take(given, told.put)
    answering.take({"config": {"batch_size": 0}}, told.put)
    answering.ask(Request("GET", "/ping"), lambda _, document: told.put(document))
    assert [told.get(timeout=10) for _ in range(3)] == [None, "schema violation (config.batch_size: too small)", given]


def test_after_stop_nothing_is_answered(answering: Answering) -> None:
    answers: list[Answer] = []
    answering.stop()
    answering.ask(Request("GET", "/ping"), lambda answer, _: answers.append(answer))
    answering.take({}, lambda fault: answers.append(Answer(500)))
    answering.stop()
    assert answers == []
