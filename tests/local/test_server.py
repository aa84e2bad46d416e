"""Start and end of the local stack."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path

import pytest
import requests

from mitmproxy_moesif.local.server import MOST_CONNECTIONS, LocalStack, open_server, start_in_thread
from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.bounded import BoundedServer
from tests.local.events import APPLICATION, encode, make_event
from tests.support.client import Client


def is_free(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


def test_starts_and_ends_in_a_running_loop() -> None:
    async def scenario() -> tuple[str, str, str]:
        async with LocalStack() as stack:
            answer = await asyncio.to_thread(requests.get, f"{stack.echo_url}/hello", timeout=10)
            assert answer.json()["path"] == "/hello"
            reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.echo_url.rpartition(":")[2]))
            writer.write(b"GET /sse?interval_ms=10000 HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"data: ")
            await stack.stop()
            writer.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return stack.collector_url, stack.page_url, stack.echo_url

    assert all(map(is_free, asyncio.run(scenario())))


def test_three_servers_one_flow_of_events() -> None:
    before = threading.active_count()
    with start_in_thread() as local:
        assert len({local.collector_url, local.page_url, local.echo_url}) == 3
        url = f"{local.collector_url}/v1/events/batch"
        assert requests.post(url, encode(make_event(5)), headers=APPLICATION, timeout=10).status_code == 201
        assert requests.get(f"{local.page_url}/events/id-5", timeout=10).json() == make_event(5)
    assert all(map(is_free, (local.collector_url, local.page_url, local.echo_url)))
    assert threading.active_count() == before


def test_ends_in_the_middle_of_answers() -> None:
    with start_in_thread() as local:
        port = int(local.echo_url.rpartition(":")[2])
        clients = [Client(port) for _ in range(3)]
        for client, path in zip(clients, ("/sse?interval_ms=10000", "/delay/60000", "/bytes/10000000"), strict=True):
            client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert clients[0].read_head() is not None
    for client in clients:
        client.close()
    assert is_free(local.echo_url)


def test_a_port_that_is_taken_is_told_in_one_line_and_nothing_stays() -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"local page: cannot listen on 127.0.0.1:{port}: Address") as raised:
            start_in_thread(port).__enter__()
    assert "\n" not in str(raised.value)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [
        ("127.0.0.1", 70_000, "127.0.0.1:70000"),
        ("127.0.0.1", -1, "127.0.0.1:-1"),
        ("192.0.2.1", 0, "192.0.2.1:0"),
        ("a" * 70, 0, f"{'a' * 70}:0"),
        ("::1%nowhere", 0, r"\[::1%nowhere\]:0"),
    ],
)
def test_an_address_that_cannot_be(host: str, port: int, shown: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as opened:
            await open_server("collector", Address(host, port), BoundedServer(lambda _: None), opened)

    with pytest.raises(OSError, match=f"collector: cannot listen on {shown}: ."):
        asyncio.run(scenario())


def test_what_was_opened_before_one_that_cannot_be_is_closed() -> None:
    ports: list[str] = []

    async def scenario() -> None:
        async with AsyncExitStack() as opened:
            ports.append(await open_server("one", Address("127.0.0.1", 0), BoundedServer(lambda _: None), opened))
            await open_server("another", Address("127.0.0.1", -1), BoundedServer(lambda _: None), opened)

    with pytest.raises(OSError, match="another"):
        asyncio.run(scenario())
    assert all(map(is_free, ports))


def test_a_database_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text" * 1000)
    with pytest.raises(OSError, match="cannot be used as the store"):
        start_in_thread(database=path).__enter__()


def test_a_file_for_events(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    with start_in_thread(database=path) as local:
        url = f"{local.collector_url}/v1/events/batch"
        requests.post(url, encode(make_event(1)), headers=APPLICATION, timeout=10)
    with start_in_thread(database=path) as local:
        assert requests.get(f"{local.page_url}/events", timeout=10).json() == [make_event(1)]


def test_who_only_holds_connections_keeps_no_event_out() -> None:
    with start_in_thread() as local, ExitStack() as opened:
        port = int(local.collector_url.rpartition(":")[2])
        held = [opened.enter_context(closing(Client(port))) for _ in range(MOST_CONNECTIONS + 5)]
        url = f"{local.collector_url}/v1/events"
        assert requests.post(url, encode(make_event(1)), headers=APPLICATION, timeout=10).status_code == 201
        assert held[0].stream.read() == b""


def test_no_application_id_is_kept_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = {"X-Moesif-Application-Id": "secret-5ecre7"}
    caplog.set_level("DEBUG")
    with start_in_thread(database=tmp_path / "events.sqlite") as local:
        for body in (encode(make_event(1)), b"nonsense", b"[" * 100):
            requests.post(f"{local.collector_url}/v1/events/batch", body, headers=secret, timeout=10)
        shown = requests.get(f"{local.page_url}/events", timeout=10).text + json.dumps(local.config.current().tag)
        written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert "5ecre7" not in shown + caplog.text
    assert b"5ecre7" not in written
