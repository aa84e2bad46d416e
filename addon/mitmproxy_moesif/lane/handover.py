"""Hands a connection over to mitmproxy's layers, with the bytes that were already read from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mitmproxy import ctx
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy.server import ConnectionIO

from mitmproxy_moesif.speedups.inline import InlineHandler


class Accepted:
    """A connection that `moesif-proxy` accepted. `left` is called once, when it ends."""

    is_secured = False

    def __init__(self, instance: mode_servers.ReverseInstance, left: Callable[[], None]) -> None:
        self._instance = instance
        self.left = left

    def client(self, transport: asyncio.BaseTransport) -> Client:
        self._client = Client(
            peername=transport.get_extra_info("peername"),
            sockname=transport.get_extra_info("sockname"),
            timestamp_start=time.time(),
            proxy_mode=self._instance.mode,
            state=ConnectionState.OPEN,
        )
        return self._client

    def hand_over(self, transport: asyncio.Transport, data: bytes, *, is_full: bool) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if is_full:
            protocol.pause_writing()
        serving = asyncio.ensure_future(serve(reader, writer, self._client, self._instance))
        serving.add_done_callback(lambda _: self.left())
        feed(transport, reader, data)


def feed(transport: asyncio.Transport, reader: asyncio.StreamReader, data: bytes) -> None:
    """Feed data that was already read to `reader`, before any further data, but after mitmproxy's task has started.

    If the connection is closed by then, the data is dropped: there is no client left to answer.
    """
    transport.pause_reading()

    def begin() -> None:
        if not transport.is_closing():
            transport.resume_reading()
            reader.feed_data(data)

    asyncio.get_running_loop().call_soon(begin)


async def serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    client: Client,
    instance: mode_servers.ReverseInstance,
) -> None:
    """Serve the connection with mitmproxy's layers until it ends."""
    handler = InlineHandler(ctx.master, reader, writer, ctx.options, instance.mode)  # type: ignore[no-untyped-call]
    handler.is_known = True
    context = handler.layer.context
    handler.client = context.client = client
    handler.transports = {client: ConnectionIO(reader=reader, writer=writer)}
    handler.layer = instance.make_top_layer(context)
    try:
        with instance.manager.register_connection(client.id, handler):
            await handler.handle_client()
    finally:
        writer.close()
