"""Behind Kong, an upstream that fails before its first byte is Kong's to deal with: the connection closes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support import wire
from tests.support.addon import addon_options
from tests.support.client import Client
from tests.support.collector import Event, ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option
from tests.support.upstream import Connection, RawRequest, ScriptedUpstream

Start = Callable[[str, Mapping[str, Option]], Mitmdump]

KONGS = [("X-Kong-Request-Id", "r1")]
BODY = b'{"n": 1}'


@pytest.fixture(params=[Mitmdump, MoesifProxy])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Either engine."""
    started: list[Mitmdump] = []

    def begin(upstream: str, options: Mapping[str, Option]) -> Mitmdump:
        started.append(request.param(upstream, options))
        return started[-1]

    yield begin
    for proxy in started:
        proxy.close()


def closes(_request: RawRequest, connection: Connection) -> None:
    connection.close()


def resets(_request: RawRequest, connection: Connection) -> None:
    connection.reset()


def ask(proxy: Mitmdump, method: str = "GET", headers: Any = (), body: bytes | None = None) -> int | None:
    """The status, None where the connection was closed without an answer."""
    with Client(proxy.port) as client:
        answer = client.exchange(method, "/x", headers=headers, body=body)
    return None if answer is None else answer.status


def event_of(collector: ScriptedCollector) -> Event:
    (event,) = collector.wait_for(1)
    return event


@pytest.mark.parametrize("stream", [True, False])
def test_an_upstream_that_closes_before_its_first_byte(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, stream: bool
) -> None:
    proxy = start(upstream.url, addon_options(collector, stream=stream))
    for number, (upstream.handler, method) in enumerate(product((closes, resets), ("GET", "POST")), start=1):
        assert ask(proxy, method, KONGS, BODY if method == "POST" else None) is None
        events = collector.wait_for(number)
        assert len(events) == number
        assert "response" not in events[-1]
        metadata = events[-1]["metadata"]
        assert (metadata["error"], metadata["left_to_kong"]) == ("upstream_failed", True)


def test_an_upstream_that_refuses(start: Start, collector: ScriptedCollector) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = start(f"http://127.0.0.1:{unused.getsockname()[1]}", addon_options(collector))
        assert ask(proxy, "GET", KONGS) is None
    assert event_of(collector)["metadata"]["left_to_kong"] is True


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({}, []),
        ({"position": "front"}, KONGS),
        ({"trusted_ips": "10.0.0.0/8"}, KONGS),
    ],
)
def test_where_no_kong_is_before_us_it_is_a_502(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, options: Any, headers: Any
) -> None:
    upstream.handler = closes
    proxy = start(upstream.url, addon_options(collector, **options))
    assert ask(proxy, "GET", headers) == 502
    event = event_of(collector)
    assert event["response"]["status"] == 502
    assert "left_to_kong" not in event["metadata"]


def test_where_the_position_says_so_no_header_is_needed(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.handler = closes
    assert ask(start(upstream.url, addon_options(collector, position="behind"))) is None


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200", b"nonsense\r\n\r\n"])
def test_an_upstream_that_fails_after_its_first_byte_is_a_502(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, begun: bytes
) -> None:
    def begins(_request: RawRequest, connection: Connection) -> None:
        connection.send(begun)
        connection.close()

    upstream.handler = begins
    assert ask(start(upstream.url, addon_options(collector)), "GET", KONGS) == 502
    assert event_of(collector)["response"]["status"] == 502


def test_a_request_that_is_not_captured_is_left_to_kong_too(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    kong = tmp_path / "kong.yml"
    plugin = "{name: moesif, route: other, config: {application_id: a}}"
    kong.write_text(f"_format_version: '3.0'\nroutes: [{{name: other, paths: [/other]}}]\nplugins: [{plugin}]\n")
    upstream.handler = closes
    proxy = start(upstream.url, addon_options(collector, kong_config=str(kong)))
    assert ask(proxy, "GET", KONGS) is None
    assert ask(proxy) == 502
    assert not collector.events()


def test_the_next_request_on_the_connection_of_another_is_untouched(
    start: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    upstream.answer("/closes", closes)
    upstream.answer("/fine", wire.response(200, [], b"fine"))
    proxy = start(upstream.url, addon_options(collector))
    with Client(proxy.port) as client:
        for path, status in (("/fine", 200), ("/fine", 200), ("/closes", None)):
            answer = client.exchange("GET", path, headers=KONGS)
            assert (answer and answer.status) == status
    assert len(collector.wait_for(3)) == 3
