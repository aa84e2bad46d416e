"""How a reverse proxy listens: with others on the port, over TCP alone, with one line where it cannot."""

from __future__ import annotations

import asyncio

from mitmproxy import ctx
from mitmproxy.proxy.mode_servers import ReverseInstance

from mitmproxy_moesif.proxy.sockets import open_sockets

BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted; asyncio's own 100 turns a burst away."""


def install(*, shared: bool) -> None:
    """In place of mitmproxy's own start of a reverse proxy: over TCP alone, also for https."""

    async def start(instance: ReverseInstance) -> None:
        host = instance.mode.listen_host(ctx.options.listen_host)
        port = instance.mode.listen_port(ctx.options.listen_port)
        instance._servers = [  # noqa: SLF001 - what mitmproxy's own start sets
            await asyncio.start_server(instance.handle_stream, sock=each, backlog=BACKLOG)
            for each in open_sockets(host, port or 0, shared=shared)
        ]

    ReverseInstance._start = start  # type: ignore[method-assign, assignment]  # noqa: SLF001
