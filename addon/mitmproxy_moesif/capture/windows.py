"""Back-pressure from an HTTP/2 client to the upstream.

mitmproxy keeps what a client's flow-control window has no room for, and reads on from the upstream: a client that
never opens its window has the proxy hold whole downloads. Here the upstream is not read while more than `MAX_UNSENT`
bytes wait. An upstream that speaks HTTP/2 is read all the same: what is for other streams comes on that connection.
"""

from __future__ import annotations

import asyncio

from mitmproxy.connection import Client
from mitmproxy.proxy import server
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection

from mitmproxy_moesif.speedups.replacing import replacement

MAX_UNSENT = 1_000_000
"""Bytes toward one client."""

LOOK_AGAIN = 0.05
"""Seconds."""

UNSENT = "_moesif_unsent"
"""The attribute of a client that has its HTTP/2 connection."""


def unsent(connection: BufferedH2Connection) -> int:
    return sum(len(frame.data) for frames in connection.stream_buffers.values() for frame in frames)


def has_unread(client: Client) -> bool:
    """Whether some of its answers wait for its windows."""
    connection: BufferedH2Connection | None = getattr(client, UNSENT, None)
    return connection is not None and any(connection.stream_buffers.values())


def is_stalled(handler: server.ConnectionHandler) -> bool:
    """Whether the connection that the running task reads has to wait for the client."""
    connection: BufferedH2Connection | None = getattr(handler.client, UNSENT, None)
    if connection is None or unsent(connection) <= MAX_UNSENT:
        return False
    toward_client = handler.transports.get(handler.client)
    if toward_client is None or toward_client.handler is asyncio.current_task():
        return False
    return all(each.alpn != b"h2" for each in handler.transports if each is not handler.client)


async def drain_writers(handler: server.ConnectionHandler) -> None:
    """Awaited after each read."""
    await _stock(handler)  # type: ignore[no-untyped-call]
    while is_stalled(handler):  # noqa: ASYNC110 - h2 tells nobody of an open window
        await asyncio.sleep(LOOK_AGAIN)


_stock = server.ConnectionHandler.drain_writers

REPLACEMENTS = (replacement(server.ConnectionHandler, "drain_writers", drain_writers),)
