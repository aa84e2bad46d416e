"""Backpressure from an HTTP/2 client to the upstream.

mitmproxy buffers what does not fit into a client's flow-control window, and keeps reading from the upstream. A client
that never opens its window would make the proxy hold whole downloads. Here the upstream is not read while more than
`MAX_UNSENT` bytes wait. HTTP/2 upstreams are not paused, because other streams use the same connection.
"""

from __future__ import annotations

import asyncio

from mitmproxy.connection import Client
from mitmproxy.proxy import server
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection

MAX_UNSENT = 1_000_000
"""Maximum unsent bytes to one client before the upstream is paused."""

LOOK_AGAIN = 0.05
"""Seconds between two checks whether the client has caught up."""

UNSENT = "_moesif_unsent"
"""The attribute of mitmproxy's client object that holds its HTTP/2 connection."""


def unsent(connection: BufferedH2Connection) -> int:
    return sum(len(frame.data) for frames in connection.stream_buffers.values() for frame in frames)


def has_unread(client: Client) -> bool:
    """Whether response data waits for the client to open its flow-control windows."""
    connection: BufferedH2Connection | None = getattr(client, UNSENT, None)
    return connection is not None and any(connection.stream_buffers.values())


def is_stalled(handler: server.ConnectionHandler) -> bool:
    """Whether the current task should stop reading its connection until the client catches up."""
    connection: BufferedH2Connection | None = getattr(handler.client, UNSENT, None)
    if connection is None or unsent(connection) <= MAX_UNSENT:
        return False
    toward_client = handler.transports.get(handler.client)
    if toward_client is None or toward_client.handler is asyncio.current_task():
        return False
    return all(each.alpn != b"h2" for each in handler.transports if each is not handler.client)


async def drain_writers(handler: server.ConnectionHandler) -> None:
    """What `capture/turns.py` awaits after each read."""
    await _stock(handler)  # type: ignore[no-untyped-call]
    while is_stalled(handler):  # noqa: ASYNC110 - h2 does not signal that a window opened
        await asyncio.sleep(LOOK_AGAIN)


_stock = server.ConnectionHandler.drain_writers
