"""A service in a loop and a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.server import ServerThread, bind, url_of


class Service:
    """Notes where it is entered and left."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._note("entered")
        yield
        await asyncio.sleep(0)
        self._note("left")

    def _note(self, what: str) -> None:
        self.seen.append((what, threading.current_thread().name))


def test_it_is_entered_when_start_returns_and_left_when_stop_does() -> None:
    before = threading.active_count()
    service = Service()
    thread = ServerThread("moesif-test", service.running())
    thread.stop()
    assert service.seen == []
    thread.start()
    assert service.seen == [("entered", "moesif-test")]
    thread.stop(10)
    thread.stop(10)
    assert service.seen == [("entered", "moesif-test"), ("left", "moesif-test")]
    assert threading.active_count() == before


def test_what_cannot_start_is_an_error_of_start() -> None:
    entered = False

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        if not entered:
            raise OSError("too many open files")
        yield

    before = threading.active_count()
    thread = ServerThread("moesif-test", failing())
    with pytest.raises(OSError, match="too many open files"):
        thread.start()
    thread.stop()
    assert threading.active_count() == before


def test_what_fails_at_its_end_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        yield
        raise ValueError("a secret")

    thread = ServerThread("moesif-test", failing())
    thread.start()
    thread.stop(10)
    (record,) = caplog.records
    assert record.getMessage().startswith("moesif: moesif-test has ended: ValueError at ")
    assert "a secret" not in caplog.text


@pytest.mark.parametrize("port", [-1, 65_536, 70_000])
def test_a_port_that_is_none_is_refused_in_one_line(port: int) -> None:
    with pytest.raises(OSError, match=rf"^admin_listen: cannot listen on 127\.0\.0\.1:{port}: a port is a number"):
        bind("admin_listen", Address("127.0.0.1", port))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("proxy.internal", "http://proxy.internal:80"),
    ],
)
def test_a_url_names_an_address_that_one_can_connect_to(host: str, url: str) -> None:
    assert url_of(host, 80) == url
