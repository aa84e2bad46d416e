"""Handlers that judge a request by its head, on a server of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application

from mitmproxy_moesif.web.access import Address, Gate
from mitmproxy_moesif.web.handlers import MAX_BODY_BYTES, GatedHandler, JsonHandler
from mitmproxy_moesif.web.server import ServerThread, bind
from tests.support.client import Client

TOKEN = "5ecre7-token"


class SizeHandler(GatedHandler):
    def post(self, *_path: str) -> None:
        self.answer(200, {"size": len(self.body())})


class FaultyHandler(GatedHandler):
    def get(self) -> None:
        raise RuntimeError("a secret")


class PlainHandler(JsonHandler):
    error_key = "error"

    def get(self) -> None:
        self.answer(200, [])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    address = Address("127.0.0.1", 0)
    ports: list[int] = []

    @asynccontextmanager
    async def listening() -> AsyncIterator[None]:
        paths = [
            ("/size", SizeHandler),
            ("/size/(.+)", SizeHandler),
            ("/faulty", FaultyHandler),
            ("/plain", PlainHandler),
        ]
        server = HTTPServer(Application(paths, gate=Gate(address, TOKEN), log_function=lambda _: None))
        sockets = bind("test", address)
        ports.append(sockets[0].getsockname()[1])
        server.add_sockets(sockets)
        yield
        server.stop()
        await server.close_all_connections()

    thread = ServerThread("moesif-test", listening())
    thread.start()
    yield ports[0]
    thread.stop(10)


def ask(port: int, method: str, path: str, body: bytes = b"", token: str = TOKEN) -> tuple[int, object, str | None]:
    """Status, body and `Connection` of the answer."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nKong-Admin-Token: {token}\r\nContent-Length: {len(body)}\r\n"
    )
    with Client(port) as client:
        client.send(f"{head}\r\n".encode() + body)
        answer = client.read_response(method)
    assert answer is not None
    assert answer.get("X-Content-Type-Options") == "nosniff"
    assert answer.get("Cache-Control") == "no-store"
    assert answer.get("Server") is None
    return answer.status, json.loads(answer.body), answer.get("Connection")


@pytest.mark.parametrize("size", [0, 1, MAX_BODY_BYTES])
def test_a_body_within_the_limit_is_read(port: int, size: int) -> None:
    assert ask(port, "POST", "/size", bytes(size)) == (200, {"size": size}, None)


def test_a_larger_one_is_refused(port: int) -> None:
    refused = {"message": f"a body may have at most {MAX_BODY_BYTES} bytes"}
    assert ask(port, "POST", "/size", bytes(MAX_BODY_BYTES + 1)) == (413, refused, "close")


def test_a_length_of_thousands_of_digits_is_refused(port: int) -> None:
    head = (
        f"POST /size HTTP/1.1\r\nHost: localhost\r\nKong-Admin-Token: {TOKEN}\r\nContent-Length: {'9' * 5000}\r\n\r\n"
    )
    with Client(port) as client:
        client.send(head.encode())
        answer = client.read_response("POST")
    assert answer is not None
    assert (answer.status, answer.get("Connection")) == (413, "close")


def test_a_request_without_the_token_is_refused_unread(port: int) -> None:
    assert ask(port, "POST", "/size", b"abc", token="other") == (401, {"message": "Unauthorized"}, "close")


@pytest.mark.parametrize(("method", "connection"), [("PUT", None), ("BREW", "close")])
def test_other_methods_are_refused_with_a_body_too(
    port: int, method: str, connection: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(port, method, "/size", b"abc") == (405, {"message": "Method not allowed"}, connection)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_path_that_is_not_utf_8_is_refused_unread(port: int) -> None:
    assert ask(port, "POST", "/size/%C3%A9", b"abc") == (200, {"size": 3}, None)
    status, _, connection = ask(port, "POST", "/size/%ff", b"abc")
    assert (status, connection) == (400, "close")


def test_a_fault_is_told_without_its_text(port: int) -> None:
    assert ask(port, "GET", "/faulty")[:2] == (500, {"message": "An unexpected error occurred"})


def test_errors_have_the_key_that_the_handler_says(port: int) -> None:
    assert ask(port, "GET", "/plain")[:2] == (200, [])
    assert ask(port, "POST", "/plain")[:2] == (405, {"error": "Method Not Allowed"})
