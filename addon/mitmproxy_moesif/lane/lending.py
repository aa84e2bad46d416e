"""Lends the connections that mitmproxy's own programs accept to the lane.

mitmproxy's connection handler asks here first (`speedups/inline.py`). The lane and its connections survive a reload of
the script. If the script is removed, the connections are handed over to mitmproxy's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mitmproxy import ctx, flow
from mitmproxy.addonmanager import Loader
from mitmproxy.tls import TlsData

from mitmproxy_moesif.lane.lent import Lent
from mitmproxy_moesif.lane.opening import Lane
from mitmproxy_moesif.speedups.inline import CARRIER, InlineHandler

KEPT = "moesif_lane"
"""The attribute of mitmproxy's master that keeps the lane while the script is reloaded."""


class Lending:
    """An addon of the script. `engine` returns the value of `moesif_engine`."""

    name = CARRIER

    def __init__(self, engine: Callable[[], str]) -> None:
        self._engine = engine

    def load(self, _loader: Loader) -> None:
        self._lane: Lane = ctx.master.__dict__.pop(KEPT, None) or Lane(self._engine)
        self._lane.engine = self._engine

    def configure(self, updated: Iterable[str]) -> None:
        self._lane.configure(updated)

    def requestheaders(self, message: flow.Flow) -> None:
        self._lane.requestheaders(message)

    def tls_established_client(self, data: TlsData) -> None:
        self._lane.tls_established_client(data)

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
        """See `Lane.engines`."""
        return self._lane.engines()

    async def carry(self, handler: InlineHandler) -> bool:
        """Serve a connection. True if it ended in the lane; false if mitmproxy's layers must serve it from now on."""
        if handler.client.transport_protocol != "tcp":
            return False
        lent = Lent(handler)
        end = self._lane.open(lent, handler.client.proxy_mode)
        if end is None:
            return False
        lent.transport.set_protocol(end)
        end.connection_made(lent.transport)
        return await lent.until_end()
