"""How long a connection to the upstream is kept. What goes over it: test_limits.py and test_same.py."""

from __future__ import annotations

import asyncio
import time

import pytest

from mitmproxy_moesif.lane import upstream
from tests.lane.world import World

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_connection_that_is_always_busy_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may have changed since it was opened."""
    with asyncio.Runner() as runner, World(runner.get_loop(), monkeypatch, waits=frozenset()) as world:
        client = world.new_client()

        def exchange() -> None:
            client.send(REQUEST)
            world.settle()
            world.upstreams[-1].send(ANSWER)
            world.settle()

        for _ in range(3):
            exchange()
        assert len(world.upstreams) == 1
        world.upstreams[0].protocol.opened -= upstream.OLDEST + 1
        exchange()
        assert world.upstreams[0].is_closing()
        exchange()
        assert len(world.upstreams) == 2
        assert world.faults == []


def test_a_peer_that_left_before_the_system_was_asked_who_it_was_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with asyncio.Runner() as runner, World(runner.get_loop(), monkeypatch, waits=frozenset()) as world:
        client = world.new_client()
        client.send(REQUEST)
        world.settle()
        upstream_end = world.upstreams[0]
        upstream_end.protocol.server.peername = None
        upstream_end.reset()
        world.settle()
        assert client.got.startswith(b"HTTP/1.1 502")
        assert upstream_end.protocol.server.timestamp_end is not None
        assert world.faults == []


def test_interim_answers_cost_no_more_time_where_many_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is behind each was copied for it: that took ten seconds and more here."""
    interim = b"HTTP/1.1 100 C\r\n\r\n" * 200_000
    with asyncio.Runner() as runner, World(runner.get_loop(), monkeypatch, waits=frozenset()) as world:
        client = world.new_client()
        client.send(REQUEST)
        world.settle()
        before = time.process_time()
        runner.get_loop().call_soon(world.upstreams[0].arrive, interim + ANSWER)
        while ANSWER not in client.got and not world.faults:
            world.settle()
        assert time.process_time() - before < 6
        assert client.got == ANSWER
        assert world.faults == []
