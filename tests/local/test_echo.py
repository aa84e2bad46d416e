"""The echo upstream."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.local.echo import MAX_BODY
from mitmproxy_moesif.local.server import LocalStack, start_in_thread
from tests.support.client import Client, RawResponse, exchange


@pytest.fixture(scope="module")
def echo() -> Iterator[LocalStack]:
    """One for all examples of a property."""
    with start_in_thread() as stack:
        yield stack


def port(local: LocalStack) -> int:
    return int(local.echo_url.rpartition(":")[2])


def ask(local: LocalStack, *args: Any, **kwargs: Any) -> RawResponse:
    answer = exchange(port(local), *args, **kwargs)
    assert answer is not None
    return answer


def test_tells_what_it_was_asked(local: LocalStack) -> None:
    answer = ask(local, "POST", "/a%20b?x=1&x=2&y=%C3%A9&z=", [("X-Tag", "one"), ("X-Tag", "two")], b'{"k": [1.5]}')
    assert json.loads(answer.body) == {
        "method": "POST",
        "path": "/a%20b",
        "args": {"x": ["1", "2"], "y": "é", "z": ""},
        "headers": {"Host": "api.example.com", "X-Tag": ["one", "two"], "Content-Length": "12"},
        "body": {"k": [1.5]},
        "body_encoding": "json",
    }
    assert answer.get("Content-Type") == "application/json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "FINISH", "M-SEARCH"])
def test_any_method(local: LocalStack, method: str) -> None:
    assert json.loads(ask(local, method, "/").body)["method"] == method


def test_head_has_the_length_and_no_body_and_the_connection_stays(local: LocalStack) -> None:
    with Client(port(local)) as client:
        for path in ("/", "/bytes/100000", "/stream/3", "/sse?n=2&interval_ms=0"):
            head = client.exchange("HEAD", path)
            assert head is not None
            assert (head.status, head.body) == (200, b"")
        last = client.exchange("GET", "/last")
    assert last is not None
    assert json.loads(last.body)["path"] == "/last"


@pytest.mark.parametrize(
    ("body", "shown", "encoding"),
    [
        (b"", None, None),
        (b"plain \xc3\xa9", "plain é", "text"),
        (b"\xff\x00", base64.b64encode(b"\xff\x00").decode(), "base64"),
        (b"[]", [], "json"),
        (b"[" * 100000, "[" * 100000, "text"),
    ],
)
def test_bodies_of_every_kind(local: LocalStack, body: bytes, shown: object, encoding: str | None) -> None:
    told = json.loads(ask(local, "POST", "/", body=body, chunked=True).body)
    assert (told["body"], told["body_encoding"]) == (shown, encoding)


def test_json_bodies_come_back_as_they_were_sent(local: LocalStack) -> None:
    body = b'{"b": 1.10, "a": ' + b"[" * 1000 + b"12345678901234567890123" + b"]" * 1000 + b"}"
    assert b'"body":' + body + b"," in ask(local, "POST", "/", body=body).body


@given(body=st.binary(max_size=50), value=st.binary(max_size=20))
def test_any_bytes(echo: LocalStack, body: bytes, value: bytes) -> None:
    value = bytes(byte for byte in value if byte > 31 and byte != 127)
    assert ask(echo, "POST", "/", [("X-Any", value)], body).status == 200


@pytest.mark.parametrize("code", [200, 204, 304, 404, 418, 503, 599])
def test_a_status(local: LocalStack, code: int) -> None:
    with Client(port(local)) as client:
        answer = client.exchange("GET", f"/status/{code}")
        again = client.exchange("GET", "/")
    assert answer is not None
    assert again is not None
    assert (answer.status, again.status) == (code, 200)


def test_a_delay_ends_with_the_echo(local: LocalStack) -> None:
    assert json.loads(ask(local, "GET", "/delay/1").body)["path"] == "/delay/1"


def test_so_many_bytes(local: LocalStack) -> None:
    assert len(ask(local, "GET", "/bytes/0").body) == 0
    assert len(ask(local, "GET", "/bytes/200000").body) == 200_000


def test_a_stream_of_lines(local: LocalStack) -> None:
    answer = ask(local, "GET", "/stream/3")
    assert answer.get("Transfer-Encoding") == "chunked"
    assert [json.loads(line) for line in answer.body.splitlines()] == [{"number": number} for number in range(3)]


def test_server_sent_events(local: LocalStack) -> None:
    answer = ask(local, "GET", "/sse?n=3&interval_ms=1")
    assert answer.get("Content-Type") == "text/event-stream"
    assert answer.body.count(b"data: ") == 3


def test_the_first_event_does_not_wait_for_the_second(local: LocalStack) -> None:
    with Client(port(local)) as client:
        client.send(b"GET /sse?n=2&interval_ms=10000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_head() is not None
        assert b"data:" in b"".join(client.stream.readline() for _ in range(4))


@pytest.mark.parametrize(
    "path",
    [
        "/status/99",
        "/status/600",
        "/status/x",
        "/bytes/10000001",
        "/bytes/-1",
        "/stream/1001",
        "/delay/60001",
        "/sse?n=1001",
        "/sse?interval_ms=10001",
        "/sse?n=x",
        "/bytes/" + "9" * 5000,
        "/status/٤٠٤",
    ],
)
def test_numbers_out_of_bounds(local: LocalStack, path: str) -> None:
    answer = ask(local, "GET", path)
    assert answer.status == 400
    assert "whole number" in json.loads(answer.body)["error"]


def test_a_body_that_is_too_large(local: LocalStack) -> None:
    answer = requests.post(f"{local.echo_url}/", bytes(MAX_BODY + 1), timeout=30)
    assert answer.status_code == 413


def test_a_client_that_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with start_in_thread() as local:
        for path in ("/stream/1000", "/bytes/10000000", "/delay/50"):
            client = Client(port(local))
            client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            client.reset()
        assert ask(local, "GET", "/").status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
