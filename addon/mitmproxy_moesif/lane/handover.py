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
    transport: asyncio.Transport, data: bytes, client: Client, instance: mode_servers.ReverseInstance
) -> asyncio.Task[None]:
    """Until the connection has ended."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    serving = asyncio.ensure_future(serve(reader, writer, client, instance))
    loop.call_soon(reader.feed_data, data)  # not before: tasks start at once, and mitmproxy's is not known to it yet
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
