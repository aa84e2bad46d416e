"""A connection that goes on in mitmproxy's layers, with the bytes that were read of it."""

from __future__ import annotations

import asyncio

from mitmproxy import ctx
from mitmproxy.connection import Client
from mitmproxy.proxy import commands, mode_servers, server_hooks
from mitmproxy.proxy.server import ConnectionIO

from mitmproxy_moesif.speedups.inline import InlineHandler


class Continued(InlineHandler):
    """Of a client that hooks know."""

    async def handle_hook(self, hook: commands.StartHook) -> None:
        if not isinstance(hook, server_hooks.ClientConnectedHook):
            await super().handle_hook(hook)


def hand_over(
    transport: asyncio.Transport,
    data: bytes,
    client: Client,
    instance: mode_servers.ReverseInstance,
    *,
    is_full: bool,
) -> asyncio.Task[None]:
    """Until the connection has ended. `is_full`: what was written last has not gone out yet."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    if is_full:
        protocol.pause_writing()
    transport.pause_reading()  # or what comes next would be read before this

    def begin() -> None:
        transport.resume_reading()
        reader.feed_data(data)

    serving = asyncio.ensure_future(serve(reader, writer, client, instance))
    loop.call_soon(begin)  # not before: tasks start at once, and mitmproxy's is not known to it yet
    return serving


async def serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    client: Client,
    instance: mode_servers.ReverseInstance,
) -> None:
    handler = Continued(ctx.master, reader, writer, ctx.options, instance.mode)  # type: ignore[no-untyped-call]
    context = handler.layer.context
    handler.client = context.client = client
    handler.transports = {client: ConnectionIO(reader=reader, writer=writer)}
    handler.layer = instance.make_top_layer(context)
    try:
        with instance.manager.register_connection(client.id, handler):
            await handler.handle_client()
    finally:
        writer.close()
