"""Under mitmproxy's own programs: the connections that they accept, lent to the lane.

mitmproxy's handler of a connection asks here first (`speedups/inline.py`). The lane outlives a reload of the script,
and its connections with it; where the script goes, they go on in mitmproxy's layers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from mitmproxy import ctx, flow
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client

from mitmproxy_moesif.lane.handover import feed
from mitmproxy_moesif.lane.opening import Lane
from mitmproxy_moesif.speedups.inline import CARRIER, InlineHandler

KEPT = "moesif_lane"
"""Where, on mitmproxy's master, the lane waits for the script's successor."""


class Lending:
    """An addon of the script. `engine` is what `moesif_engine` says."""

    name = CARRIER

    def __init__(self, engine: Callable[[], str]) -> None:
        self._engine = engine

    def load(self, loader: Loader) -> None:
        self._lane: Lane = ctx.master.__dict__.pop(KEPT, None) or Lane(self._engine)
        self._lane.engine = self._engine
        self._lane.load(loader)

    def configure(self, updated: Iterable[str]) -> None:
        self._lane.configure(updated)

    def requestheaders(self, message: flow.Flow) -> None:
        self._lane.requestheaders(message)

    def running(self) -> None:
        self._lane.running()

    def done(self) -> None:
        master, lane = ctx.master, self._lane
        if master.should_exit.is_set():
            lane.done()
            return
        master.__dict__[KEPT] = lane

        def end_unless_claimed() -> None:
            if master.__dict__.pop(KEPT, None) is not None:
                lane.end()

        master.event_loop.call_soon(end_unless_claimed)

    def engines(self) -> dict[str, int]:
        """As `Lane.engines`."""
        return self._lane.engines()

    async def carry(self, handler: InlineHandler) -> bool:
        """Whether the connection has ended here; else mitmproxy's layers have it, from now on or after all."""
        if handler.client.transport_protocol != "tcp":
            return False
        lent = Lent(handler)
        end = self._lane.open(lent, handler.client.proxy_mode)
        if end is None:
            return False
        lent.transport.set_protocol(end)
        end.connection_made(lent.transport)
        return await lent.has_ended


class Lent:
    """A connection of mitmproxy's, of which nothing has been read: tasks start at once."""

    def __init__(self, handler: InlineHandler) -> None:
        self._handler = handler
        io = handler.transports[handler.client]
        assert isinstance(io.reader, asyncio.StreamReader)
        assert isinstance(io.writer, asyncio.StreamWriter)
        self._reader = io.reader
        self.transport: Any = io.writer.transport
        self._protocol = self.transport.get_protocol()
        self.has_ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def client(self, _transport: asyncio.BaseTransport) -> Client:
        return self._handler.client

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, is_full: bool) -> None:
        transport.set_protocol(self._protocol)
        if is_full:
            self._protocol.pause_writing()
        self._handler.is_known = True
        self._give_back(ended=False)
        feed(transport, self._reader, data)

    def left(self) -> None:
        self._give_back(ended=True)

    def _give_back(self, *, ended: bool) -> None:
        """With the place among mitmproxy's connections, from which mitmproxy itself removes it."""
        ctx.master.addons.get("proxyserver").connections[self._handler.client.id] = self._handler
        if not self.has_ended.done():
            self.has_ended.set_result(ended)
