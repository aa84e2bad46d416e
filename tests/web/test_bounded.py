"""A server among far more connections than it keeps."""

from __future__ import annotations

import logging
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress

import pytest
from tornado.web import Application, RequestHandler

from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.bounded import MOST_CONNECTIONS, BoundedServer
from mitmproxy_moesif.web.server import ServerThread, bind
from tests.support.client import Client

GET = b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = b"-" * 6_000_000


class PingHandler(RequestHandler):
    def get(self) -> None:
        self.finish("PONG")


class FollowHandler(RequestHandler):
    """Begins an answer, and ends it where another request says so."""

    following: list[RequestHandler] = []  # noqa: RUF012 - emptied by the fixture

    async def get(self) -> None:
        self.write("first")
        await self.flush()
        self.following.append(self)
        self._auto_finish = False


class EndHandler(RequestHandler):
    def get(self) -> None:
        for handler in FollowHandler.following:
            handler.finish("last")
        self.finish("PONG")


class LargeHandler(RequestHandler):
    """More than the sockets take."""

    def get(self) -> None:
        self.finish(LARGE)


class CountHandler(RequestHandler):
    asked = 0

    def get(self) -> None:
        CountHandler.asked += 1


@pytest.fixture
def listening() -> Iterator[list[socket.socket]]:
    sockets = bind("test", Address("127.0.0.1", 0))
    paths = [
        ("/ping", PingHandler),
        ("/follow", FollowHandler),
        ("/end", EndHandler),
        ("/large", LargeHandler),
        ("/count", CountHandler),
    ]

    @asynccontextmanager
    async def serving() -> AsyncIterator[None]:
        async with BoundedServer(Application(paths, log_function=lambda _: None)).serving(sockets):
            yield

    FollowHandler.following.clear()
    CountHandler.asked = 0
    thread = ServerThread("moesif-test", serving())
    thread.start()
    yield sockets
    thread.stop(10)
    for each in sockets:
        each.close()


@pytest.fixture
def port(listening: list[socket.socket]) -> int:
    number: int = listening[0].getsockname()[1]
    return number


def ping(client: Client) -> bytes:
    client.send(GET % b"ping")
    answer = client.read_response()
    assert answer is not None
    return answer.body


def test_who_only_holds_connections_keeps_nobody_out(port: int) -> None:
    with ExitStack() as opened:
        held = [opened.enter_context(closing(Client(port))) for _ in range(3 * MOST_CONNECTIONS)]
        for client in held[:MOST_CONNECTIONS]:
            client.send(b"GET /ping HTTP/1.1\r\nHost: loc")
        asking = opened.enter_context(closing(Client(port)))
        assert ping(asking) == b"PONG"
        for client in held[: 2 * MOST_CONNECTIONS]:
            assert closed(client)
        assert ping(held[-1]) == b"PONG"
        assert ping(asking) == b"PONG"


@pytest.mark.parametrize("owed", [b"Content-Length: 9\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n9\r\n"])
def test_who_owes_a_body_keeps_nobody_out(port: int, owed: bytes) -> None:
    with ExitStack() as opened:
        for _ in range(MOST_CONNECTIONS):
            client = opened.enter_context(closing(Client(port)))
            client.send(b"POST /ping HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n" + owed)
            client.stream.peek(1)  # its head was read
        assert is_answered(port)


def test_who_reads_no_answer_keeps_nobody_out(port: int) -> None:
    with ExitStack() as opened:
        for _ in range(MOST_CONNECTIONS):
            client = opened.enter_context(closing(Client(port)))
            client.send(GET % b"large")
            client.stream.peek(1)  # the rest waits for its reader
        assert is_answered(port)


def test_what_was_sent_ahead_of_an_end_is_not_answered(port: int) -> None:
    with closing(Client(port)) as client:
        client.send(GET % b"follow" + 20 * (GET % b"count"))
        client.stream.peek(1)
        client.reset()
    with closing(Client(port)) as asking:
        asking.send(GET % b"end")  # what is written now finds that the client has left
        assert asking.read_response() is not None
        for _ in range(30):
            ping(asking)
    assert CountHandler.asked == 0


def closed(client: Client) -> bool:
    try:
        return client.stream.read() == b""
    except ConnectionResetError:
        return True


def test_an_answer_under_way_is_not_cut(port: int) -> None:
    with ExitStack() as opened:
        following = opened.enter_context(closing(Client(port)))
        following.send(GET % b"follow")
        following.stream.peek(1)  # it has begun
        for _ in range(2 * MOST_CONNECTIONS):
            opened.enter_context(closing(Client(port)))
        with closing(Client(port)) as asking:
            asking.send(GET % b"end")
            assert (answer := asking.read_response()) is not None
            assert answer.body == b"PONG"
        assert (answer := following.read_response()) is not None
        assert answer.body == b"firstlast"


def test_where_all_are_being_answered_a_new_one_is_closed_until_one_has_gone(port: int) -> None:
    with ExitStack() as opened:
        following = [opened.enter_context(closing(Client(port))) for _ in range(MOST_CONNECTIONS)]
        for client in following:
            client.send(GET % b"follow")
            client.stream.peek(1)
        assert not is_answered(port)
        following.pop().close()
        deadline = time.monotonic() + 10
        while not is_answered(port):
            assert time.monotonic() < deadline


def is_answered(port: int) -> bool:
    with closing(Client(port)) as client:
        try:
            return ping(client) == b"PONG"
        except (ConnectionError, AssertionError):
            return False


def test_where_descriptors_run_short_it_waits_for_them(port: int, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(socket.socket()) as client, caplog.at_level(logging.WARNING):
        taken = [os.dup(client.fileno())]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 50, hard))
            with suppress(OSError):
                while True:
                    taken.append(os.dup(client.fileno()))
            client.connect(("127.0.0.1", port))
            client.sendall(GET % b"ping")
            deadline = time.monotonic() + 10
            while not caplog.records:
                assert time.monotonic() < deadline
        finally:
            for each in taken:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.settimeout(10)
        assert client.recv(4096).endswith(b"PONG")
    assert [record.getMessage() for record in caplog.records] == ["moesif: Too many open files: new connections wait"]
