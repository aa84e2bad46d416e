"""Forgets a client's upstream connections once they have ended.

mitmproxy keeps all of them for as long as the client's own connection lasts. An HTTP/2 client has a new one for each
request to an HTTP/1 upstream: each took 6 kB, and each request looked through all of them. One that could not be made
was never tried again: its error was the response to all later requests of that client.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import commands, server
from mitmproxy.proxy.layers import http as http_layers

from mitmproxy_moesif.speedups.replacing import replacement


def has_ended(connection: Connection) -> bool:
    """Whether nothing more will happen on a connection. One that is about to be opened has no error yet."""
    if not isinstance(connection, Server) or connection.state is not ConnectionState.CLOSED:
        return False
    return connection.timestamp_end is not None or (
        connection.error is not None and connection.timestamp_tcp_setup is None
    )


def forget_ended(layer: http_layers.HttpLayer) -> None:
    """Forget what has ended, unless an exchange may still send to it."""
    ended = [each for each in layer.connections if has_ended(each)]
    if not ended:
        return
    used = {stream.context.server for stream in layer.streams.values()}
    for connection in ended:
        if connection is not layer.context.server and connection not in used:
            del layer.connections[connection]


def get_connection(
    layer: http_layers.HttpLayer, event: http_layers.GetHttpConnection, *, reuse: bool = True
) -> Generator[commands.Command, Any, None]:
    """mitmproxy calls this for each request."""
    forget_ended(layer)
    yield from _stock_get_connection(layer, event, reuse=reuse)


async def open_connection(handler: server.ConnectionHandler, command: commands.OpenConnection) -> None:
    """mitmproxy keeps the transport of a connection that could not be made."""
    try:
        await _stock_open_connection(handler, command)
    finally:
        io = handler.transports.get(command.connection)
        if io is not None and io.writer is None:
            del handler.transports[command.connection]


_stock_get_connection = http_layers.HttpLayer.get_connection
_stock_open_connection = server.ConnectionHandler.open_connection

REPLACEMENTS = (
    replacement(http_layers.HttpLayer, "get_connection", get_connection),
    replacement(server.ConnectionHandler, "open_connection", open_connection),
)
