"""What was read of a connection comes first in mitmproxy's layers, and they know whether their peer takes more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.proxy.mode_specs import ProxyMode

from mitmproxy_moesif.lane import handover
from tests.lane.world import FakeTransport


@pytest.mark.parametrize("is_full", [False, True])
def test_what_comes_at_once_is_behind_what_was_read(is_full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop calls `data_received` again before anything else has its turn."""
    seen: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *_: Any) -> None:
        seen.append(await reader.readexactly(len(b"firstsecond")))
        draining = asyncio.ensure_future(writer.drain())
        await asyncio.sleep(0)
        seen.append(draining.done())
        draining.cancel()

    async def hand_over() -> None:
        loop = asyncio.get_running_loop()
        instance: Any = SimpleNamespace(mode=ProxyMode.parse("reverse:http://upstream:80"))
        has_ended = asyncio.Event()
        place = handover.Accepted(instance, has_ended.set)
        transport = FakeTransport(loop, asyncio.Protocol())
        place.client(transport)
        place.hand_over(transport, b"first", is_full=is_full)
        transport.arrive(b"second")
        await has_ended.wait()
        transport.done()

    monkeypatch.setattr(handover, "serve", serve)
    asyncio.run(hand_over())
    assert seen == [b"firstsecond", not is_full]


def test_a_connection_that_is_lost_meanwhile_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter, *_: Any) -> None:
        seen.append(await reader.read())

    async def hand_over() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: seen.append(context["message"]))
        instance: Any = SimpleNamespace(mode=ProxyMode.parse("reverse:http://upstream:80"))
        has_ended = asyncio.Event()
        place = handover.Accepted(instance, has_ended.set)
        transport = FakeTransport(loop, asyncio.Protocol())
        place.client(transport)
        transport.abort()
        place.hand_over(transport, b"first", is_full=False)
        await has_ended.wait()
        transport.done()

    monkeypatch.setattr(handover, "serve", serve)
    asyncio.run(hand_over())
    assert seen == [b""]
