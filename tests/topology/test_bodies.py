"""Bodies and answers without one, through nginx on either side of the addon."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.support import wire
from tests.support.upstream import echo
from tests.topology.stations import Topology

JSON = ("Content-Type", "application/json")


@pytest.fixture(params=["front", "behind"])
def topology(request: pytest.FixtureRequest) -> Topology:
    topology: Topology = request.getfixturevalue(request.param)
    return topology


@pytest.mark.parametrize("chunked", [False, True])
def test_json_there_and_back(chunked: bool, topology: Topology) -> None:
    topology.service.answer("/echo", echo)
    body = json.dumps({"order": 7, "name": "Zoë"}).encode()
    seen = topology.ask("POST", "/open/echo", [JSON], body, chunked=chunked)
    assert seen.service.body == seen.answer.body == body
    assert seen.event["request"]["verb"] == "POST"
    for side in ("request", "response"):
        assert seen.event[side]["body"] == {"order": 7, "name": "Zoë"}
        assert seen.event[side]["transfer_encoding"] == "json"


def test_a_chunked_answer(topology: Topology) -> None:
    topology.service.answer("/chunked", wire.response(200, [JSON], b'{"a": [1, 2]}', chunked=True))
    seen = topology.ask(target="/open/chunked")
    assert seen.answer.get("transfer-encoding") == "chunked"
    assert seen.answer.body == b'{"a": [1, 2]}'
    assert seen.event["response"]["body"] == {"a": [1, 2]}


def test_a_compressed_answer(topology: Topology) -> None:
    content = gzip.compress(b'{"a": 1}')
    topology.service.answer("/gzip", wire.response(200, [JSON, ("Content-Encoding", "gzip")], content))
    seen = topology.ask(target="/open/gzip")
    assert seen.answer.body == content
    assert seen.event["response"]["body"] == {"a": 1}


def test_an_answer_larger_than_all_buffers(topology: Topology) -> None:
    """nginx keeps what is not read yet in a file; the event names what it left out."""
    content = b"0123456789abcdef" * 200_000
    topology.service.answer("/large", wire.response(200, [], content))
    topology.service.answer("/upload", echo)
    seen = topology.ask(target="/open/large")
    assert seen.answer.body == content
    assert seen.event["metadata"]["body_omitted"] == {"response": "too_large"}
    seen = topology.ask("POST", "/open/upload", body=content)
    assert seen.service.body == seen.answer.body == content
    assert seen.event["metadata"]["body_omitted"] == {"request": "too_large", "response": "too_large"}


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_answers_without_a_body(method: str, status: int, topology: Topology) -> None:
    head = [("ETag", '"7"'), ("Content-Length", "4711")] if status != 204 else []
    topology.service.answer(f"/bare-{status}", wire.response(status, head))
    seen = topology.ask(method, f"/open/bare-{status}", [("If-None-Match", '"7"')])
    assert (seen.answer.status, seen.answer.body) == (status, b"")
    assert seen.event["response"]["status"] == status
    assert "body" not in seen.event["response"]
    assert "body_omitted" not in seen.event.get("metadata", {})
    assert seen.event["response"]["headers"].get("etag") == ('"7"' if head else None)


def test_head_of_what_kong_answers_itself(front: Topology) -> None:
    seen = front.ask("HEAD", "/nowhere")
    assert (seen.answer.status, seen.answer.body) == (404, b"")
    assert seen.event["response"]["status"] == 404
    assert "body" not in seen.event["response"]


def test_a_body_that_kong_refuses_unread(front: Topology) -> None:
    seen = front.ask("POST", "/orders", [JSON], b'{"n": 1}', chunked=True)
    assert seen.answer.status == 401
    assert seen.event["request"]["body"] == {"n": 1}
    assert seen.event["response"]["status"] == 401
