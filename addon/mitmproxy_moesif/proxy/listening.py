"""How a reverse proxy listens: after everything else has started, on a port shared with others, over TCP only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mitmproxy import ctx
from mitmproxy.addons.errorcheck import ErrorCheck
from mitmproxy.addons.script import ScriptLoader
from mitmproxy.master import Master
from mitmproxy.proxy.mode_servers import ReverseInstance

from mitmproxy_moesif.lane.handover import Accepted
from mitmproxy_moesif.lane.opening import Lane
from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy.accepting import Acceptor, Room
from mitmproxy_moesif.proxy.sockets import cannot_listen, open_sockets


class LateMaster(Master):
    """Starts listening only when every addon and script is running, so that none of them misses an exchange.

    Until then the port is bound, and connections are refused.
    """

    serves = False

    async def running(self) -> None:
        check: ErrorCheck = self.addons.get("errorcheck")
        loader: ScriptLoader = self.addons.get("scriptloader")
        # Scripts are loaded by separate tasks in the next turns of the loop, and no event signals that.
        while any(script.ns is None for script in loader.addons) and not check.logger.has_errored:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await super().running()
        await check.shutdown_if_errored()
        self.serves = True
        for instance in self.addons.get("proxyserver").servers:
            for server in instance._servers:  # noqa: SLF001 - what its start has set
                try:
                    await server.start_serving()
                except OSError as error:  # another process has bound the port, too, and already listens
                    host, port, *_ = server.sockets[0].getsockname()
                    log.error("moesif-proxy: %s", cannot_listen(host, port, error))
        await check.shutdown_if_errored()


def install(room: Room, lane: Lane, *, shared: bool) -> None:
    """Replace how mitmproxy starts a reverse proxy: over TCP only, also for https."""

    async def start(instance: ReverseInstance) -> None:
        assert isinstance(ctx.master, LateMaster)
        host = instance.mode.listen_host(ctx.options.listen_host)
        port = instance.mode.listen_port(ctx.options.listen_port)

        def open_(left: Callable[[], None]) -> asyncio.Protocol | None:
            return lane.open(Accepted(instance, left), instance.mode)

        servers: list[Any] = [
            Acceptor(each, instance.handle_stream, room, open_) for each in open_sockets(host, port or 0, shared=shared)
        ]
        instance._servers = servers  # noqa: SLF001 - what mitmproxy's own start sets
        if ctx.master.serves:
            for server in servers:
                await server.start_serving()

    ReverseInstance._start = start  # type: ignore[method-assign, assignment]  # noqa: SLF001
