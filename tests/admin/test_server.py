"""Start and end of the listener, its address and its token."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
import requests
from tornado.netutil import bind_sockets

from mitmproxy_moesif.admin import server as server_module
from mitmproxy_moesif.admin.server import admin_server
from mitmproxy_moesif.web.bounded import MOST_CONNECTIONS
from tests.admin.sources import FakeSource
from tests.support.client import Client

TOKEN = "5ecre7-token"


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("listen", "url"),
    [("127.0.0.1:0", "http://127.0.0.1:"), ("[::1]:0", "http://[::1]:"), ("localhost:0", "http://localhost:")],
)
def test_listens_on_loopback_and_ends(source: FakeSource, listen: str, url: str) -> None:
    before = threading.active_count()
    server = admin_server(listen, None, source)
    server.start()
    assert server.url.startswith(url)
    assert port_of(server.url) > 0
    assert requests.get(f"{server.url}/ping", timeout=10).text == "PONG"
    server.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/ping", timeout=10)
    assert threading.active_count() == before


def test_stops_at_any_time_and_twice(source: FakeSource) -> None:
    admin_server("127.0.0.1:0", None, source).stop()
    server = admin_server("127.0.0.1:0", None, source)
    server.start()
    with (
        contextlib.closing(Client(port_of(server.url))) as idle,
        contextlib.closing(Client(port_of(server.url))) as half,
    ):
        half.send(b"POST /plugins HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
        idle.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (answer := idle.read_response("GET")) is not None
        assert answer.status == 200
        server.stop()
        server.stop()
        assert idle.stream.read() == b""
        assert half.stream.read() == b""


def test_the_end_does_not_wait_for_a_proxy_that_waits_for_it(source: FakeSource) -> None:
    entered, released = threading.Event(), threading.Event()

    def wait() -> str | None:
        entered.set()
        assert released.wait(20)
        return None

    source.trouble = wait  # type: ignore[method-assign]
    server = admin_server("127.0.0.1:0", None, source)
    server.start()
    with Client(port_of(server.url)) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert entered.wait(20)
        server.stop(timeout=0.05)
        released.set()
        deadline = time.monotonic() + 20
        while any(thread.name == "moesif-admin" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)


def test_a_port_that_is_taken_is_told_in_one_line(source: FakeSource) -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=f"^admin_listen: cannot listen on {listen}: Address already in use$"):
            admin_server(listen, None, source).start()
    assert threading.active_count() == before


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 70])
def test_an_address_of_others_is_told_in_one_line(source: FakeSource, host: str) -> None:
    with pytest.raises(OSError, match=rf"^admin_listen: cannot listen on {host}:0: [^\n]+$"):
        admin_server(f"{host}:0", TOKEN, source).start()


def test_a_name_that_only_looks_like_loopback_needs_a_token(
    source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr("mitmproxy_moesif.web.server.bind_sockets", lambda port, host: [bound])
    monkeypatch.setattr(server_module, "is_bound_to_loopback", lambda bound: False)
    with pytest.raises(ValueError, match=r"localhost:0 resolves to more than loopback, so admin_token is needed"):
        admin_server("localhost:0", None, source).start()
    assert bound.fileno() == -1


def test_a_thread_that_cannot_run_is_an_error_of_start(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(server_module, "BoundedServer", fail)
    server = admin_server("127.0.0.1:0", None, source)
    with pytest.raises(OSError, match="too many open files"):
        server.start()
    server.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/ping", timeout=10)


@pytest.mark.parametrize("name", ["0.0.0.0", "127.0.0.1", "proxy.internal"])
def test_with_a_token_only_probes_pass_without_it(
    source: FakeSource, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("mitmproxy_moesif.web.server.bind_sockets", lambda port, host: bind_sockets(port, "127.0.0.1"))
    server = admin_server(f"{name}:0", TOKEN, source)
    server.start()
    try:
        url = f"http://127.0.0.1:{port_of(server.url)}"
        for path in ("/health", "/ping"):
            assert requests.get(url + path, timeout=10).status_code == 200
        for path in ("/status", "/metrics", "/plugins", "/nothing"):
            refused = requests.get(url + path, timeout=10)
            assert (refused.status_code, refused.json()) == (401, {"message": "Unauthorized"})
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert requests.post(f"{url}/plugins", data={"name": "moesif"}, timeout=10).status_code == 401
        assert source.asked == {"trouble": 1}
        for headers in ({"Kong-Admin-Token": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}):
            answer = requests.get(f"{url}/status", headers=headers, timeout=10)
            assert answer.status_code == 200
            assert TOKEN not in answer.text
    finally:
        server.stop()


def test_a_slow_client_delays_nobody(source: FakeSource) -> None:
    server = admin_server("127.0.0.1:0", None, source)
    server.start()
    slow = [Client(port_of(server.url)) for _ in range(20)]
    for client in slow:
        client.send(b"GET /status HTTP/1.1\r\nHost: loc")
    assert requests.get(f"{server.url}/status", timeout=10).status_code == 200
    server.stop()
    for client in slow:
        client.close()


def test_connections_that_ask_nothing_take_no_descriptors_from_the_proxy(source: FakeSource) -> None:
    server = admin_server("127.0.0.1:0", TOKEN, source)
    server.start()
    held = [Client(port_of(server.url)) for _ in range(2 * MOST_CONNECTIONS)]
    assert requests.get(f"{server.url}/ping", timeout=10).text == "PONG"
    assert held[0].stream.read() == b""
    server.stop()
    for client in held:
        client.close()
