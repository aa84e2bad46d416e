"""The lane's two ends on transports that a test holds the far ends of, without sockets: every order can be had."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest
from mitmproxy import http
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy.mode_specs import ProxyMode

from mitmproxy_moesif.capture.responses import blocked_response
from mitmproxy_moesif.capture.tee import Tee
from mitmproxy_moesif.governance.rules import Blocked
from mitmproxy_moesif.lane import client as client_module
from mitmproxy_moesif.lane import exchange as exchange_module
from mitmproxy_moesif.lane import upstream as upstream_module
from mitmproxy_moesif.lane.client import ClientEnd
from mitmproxy_moesif.lane.destination import Destination
from mitmproxy_moesif.lane.opening import Lane
from mitmproxy_moesif.lane.upstream import UpstreamEnd

HIGH_WATER = READ_AT_ONCE = 65_536
TURNS = 12
"""Of the event loop, after which nothing more happens by itself."""

ENDS = ("response", "error")
"""Hooks with which an exchange ends."""


class FakeTransport(asyncio.Transport):
    """One end of a connection. What its far end does is delivered as sockets do: not while reading is paused."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: Any) -> None:
        super().__init__()
        self._loop = loop
        self.protocol = protocol
        self.got = bytearray()
        """By the far end."""
        self.takes = True
        self.is_lost = False
        self._closing = self._paused = self._full = self._ended = False
        self._unsent = bytearray()
        self._arriving: deque[bytes] = deque()
        self._readable = os.eventfd(0)

    # What protocols use

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"peername": ("10.0.0.1", 1), "sockname": ("10.0.0.2", 2)}
        return SimpleNamespace(fileno=lambda: self._readable) if name == "socket" else known.get(name, default)

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: Any) -> None:
        assert not self._closing, "nothing is written to what is closing"
        self._unsent += data
        if self.takes:
            self.got += self._unsent
            self._unsent.clear()
        elif len(self._unsent) > HIGH_WATER and not self._full:
            self._full = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        self.close()  # as its peer then does

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._deliver)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._closing = True
        self._unsent.clear()
        self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = self._closing = True
            self.protocol.connection_lost(error)

    # What the far end does

    def send(self, data: bytes) -> None:
        if data and not self._ended:
            self._arriving += (data[at : at + READ_AT_ONCE] for at in range(0, len(data), READ_AT_ONCE))
            os.eventfd_write(self._readable, 1)
            self._loop.call_soon(self._deliver)

    def arrive(self, data: bytes) -> None:
        """Sends what is delivered before anything else has its turn."""
        self._arriving.append(data)
        os.eventfd_write(self._readable, 1)
        self._deliver()

    def end(self) -> None:
        """Sends no more."""
        self._ended = True
        os.eventfd_write(self._readable, 1)
        self._loop.call_soon(self._deliver)

    def reset(self) -> None:
        self._ended = True
        self._arriving.clear()
        self._loop.call_soon(self._lose, ConnectionResetError("reset"))

    def drain(self) -> None:
        """Takes what is there, and from now on all that comes."""
        self.takes = True
        self.got += self._unsent
        self._unsent.clear()
        if self._full:
            self._full = False
            self._loop.call_soon(self.protocol.resume_writing)
        if self._closing:
            self._loop.call_soon(self._lose, None)

    def _deliver(self) -> None:
        while self._arriving and not self._paused and not self._closing:
            if len(self._arriving) == 1 and not self._ended:
                os.eventfd_read(self._readable)
            self.protocol.data_received(self._arriving.popleft())
        at_end = self._ended and not self._arriving and not self._paused and not self._closing
        if at_end and not self.protocol.eof_received():
            self.close()

    def done(self) -> None:
        os.close(self._readable)


class Pretended:
    """In the place of addons: streams, blocks, and lets hooks wait, as it is told. It notes the hooks of each flow."""

    def __init__(self, *, streams: bool, waits: frozenset[str]) -> None:
        self._streams = streams
        self._waits = waits
        self.hooks: dict[str, list[str]] = {}
        self.flows: dict[str, http.HTTPFlow] = {}
        self.waiting: deque[asyncio.Future[None]] = deque()

    def call(self, name: str, data: Any) -> Awaitable[None] | None:
        if isinstance(data, http.HTTPFlow):
            self.flows[data.id] = data
            self.hooks.setdefault(data.id, []).append(name)
            getattr(self, name, lambda _: None)(data)
        if name not in self._waits:
            return None
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if flow.request.path.startswith("/blocked"):
            flow.response = blocked_response(Blocked("rule", 403, (), b"no"), head=flow.request.method == "HEAD")
        elif self._streams:
            flow.request.stream = Tee(1000)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = Tee(1000) if self._streams else False


class FakeLane(Lane):
    def __init__(self, addons: Pretended) -> None:
        super().__init__(lambda: "fast")
        self._addons = addons
        self._known_connections: dict[Any, Any] = {}

    def run(self, hook: type, data: Any) -> Awaitable[None] | None:
        return self._addons.call(hook.name, data)  # type: ignore[attr-defined]

    def _of_proxyserver(self) -> dict[Any, Any]:
        return self._known_connections


class FakePlace:
    """Whatever is handed over has ended."""

    is_secured = False

    def __init__(self, left: Callable[[], None]) -> None:
        self.left = left

    def client(self, transport: asyncio.BaseTransport) -> Client:
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        mode = ProxyMode.parse("reverse:http://upstream:80")
        return Client(peername=peer, sockname=own, proxy_mode=mode, state=ConnectionState.OPEN)

    def hand_over(self, transport: asyncio.Transport, _data: bytes, *, is_full: bool) -> None:
        transport.set_protocol(asyncio.Protocol())
        transport.abort()
        self.left()


class World:
    """One lane, its clients and its upstream. Whatever goes wrong inside is in `faults`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, patch: pytest.MonkeyPatch, *, streams: bool = True, waits: frozenset[str]
    ) -> None:
        self.loop = loop
        self.addons = Pretended(streams=streams, waits=waits)
        self.lane = FakeLane(self.addons)
        self.clients: list[FakeTransport] = []
        self.upstreams: list[FakeTransport] = []
        self.opening: deque[asyncio.Future[bool]] = deque()
        self.opens_at_once = "open" not in waits
        self.faults: list[str] = []
        self.left: Counter[int] = Counter()
        loop.set_exception_handler(lambda _, context: self.faults.append(repr(context)))
        for module in (client_module, exchange_module, upstream_module):
            patch.setattr(module, "crashed", lambda _: self.faults.append("crashed"))
        patch.setattr(self.lane.pool, "open", self._open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.lane.pool.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.settle()
        for transport in self.clients + self.upstreams:
            transport.done()

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def new_client(self) -> FakeTransport:
        number = len(self.clients)
        end = ClientEnd(self.lane, FakePlace(lambda: self.left.update([number])))
        transport = FakeTransport(self.loop, end)
        self.clients.append(transport)
        self.loop.call_soon(end.connection_made, transport)
        self.settle()
        return transport

    async def _open(self, destination: Destination, client: Client) -> UpstreamEnd:
        if not self.opens_at_once:
            self.opening.append(self.loop.create_future())
            if not await self.opening[-1]:
                raise OSError("refused")
        await asyncio.sleep(0)
        server = Server(address=destination[:2])
        server.state = ConnectionState.OPEN
        end = UpstreamEnd(self.lane, destination, server, client)
        transport = FakeTransport(self.loop, end)
        end.connection_made(transport)
        self.upstreams.append(transport)
        return end

    def open_next(self, *, succeeds: bool) -> None:
        while self.opening and (opening := self.opening.popleft()):
            if not opening.done():
                opening.set_result(succeeds)
                return

    def answer_hook(self) -> None:
        while self.addons.waiting and (waiting := self.addons.waiting.popleft()):
            if not waiting.done():
                waiting.set_result(None)
                return

    def end_all(self) -> None:
        """Every client leaves, and whatever is waited for comes."""
        for transport in self.clients:
            transport.reset()
        self.settle()
        while self.addons.waiting or self.opening:
            self.answer_hook()
            self.open_next(succeeds=True)
            self.settle()

    def unsound(self) -> list[str]:
        """What must not be, at any time."""
        found = list(self.faults)
        for end in self.lane.connections:
            exchange = end.exchange
            if exchange is not None and exchange.upstream is not None and exchange.upstream.exchange is not exchange:
                found.append("an upstream's connection that is another's")
            if len(end._buffer) > 2 * HIGH_WATER:
                found.append("a client's bytes are kept without bound")
        busy = Counter(
            id(end.exchange.upstream) for end in self.lane.connections if end.exchange and end.exchange.upstream
        )
        if any(count > 1 for count in busy.values()):
            found.append("two exchanges on one connection")
        return found

    def unended(self) -> list[str]:
        """What is left when all clients have gone."""
        found = [f"{hooks}" for hooks in self.addons.hooks.values() if sum(map(hooks.count, ENDS)) != 1]
        found += [f"alive: {self.addons.hooks[flow.id]}" for flow in self.addons.flows.values() if flow.live]
        found += [
            f"connection {number} left {self.left[number]} times"
            for number in range(len(self.clients))
            if self.left[number] != 1
        ]
        if self.lane.connections:
            found.append("a client's connection is left")
        kept = {id(end) for ends in self.lane.pool._kept.values() for end in ends}
        for transport in self.upstreams:
            if transport.protocol.exchange is not None:
                found.append("an upstream's connection has an exchange")
            if not transport.is_closing() and id(transport.protocol) not in kept:
                found.append("an upstream's connection is nobody's")
        return found
