"""An HTTP server with a limited number of connections, since the rest of the process needs descriptors too.

Above the limit, the connection that has waited longest for a complete request is closed; if none waits, the oldest one
whose client does not read its response. So idle connections keep nobody out. If all connections have a request in
progress, the new one is closed. Pipelined requests of a closed connection get no response.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPMessageDelegate
from tornado.iostream import IOStream

from mitmproxy_moesif.log import RateLimitedLog

MOST_CONNECTIONS = 40
"""Fewer than the descriptors that the proxy leaves for anything but its clients' connections."""

PAUSE = 0.2
"""Seconds until the next attempt after a failure, which may be a shortage of descriptors."""


class BoundedServer(HTTPServer):
    """Use `serving` instead of `add_sockets` and `stop`."""

    def initialize(self, *args: Any, most_connections: float = MOST_CONNECTIONS, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self._most = most_connections
        self._limited = RateLimitedLog()
        self._open: dict[IOStream, None] = {}
        self._waiting: dict[IOStream, None] = {}

    @asynccontextmanager
    async def serving(self, sockets: Sequence[socket.socket]) -> AsyncIterator[None]:
        """Serve until the end of the block; then close all connections."""
        accepting = [asyncio.ensure_future(self._accept(each)) for each in sockets]
        try:
            yield
        finally:
            for each in accepting:
                each.cancel()
            await self.close_all_connections()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._limited.warning("accept", "moesif: %s: new connections wait", error.strerror)
                await asyncio.sleep(PAUSE)
                continue
            self.handle_stream(IOStream(connection, self.max_buffer_size, self.read_chunk_size), address)
            await asyncio.sleep(0)  # a burst must not delay existing connections

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        if len(self._open) >= self._most:
            unread = (each for each in self._open if each.writing())
            longest = next(chain(self._waiting, unread), stream)
            self._forget(longest)
            longest.close()
            if longest is stream:
                return
        self._open[stream] = None
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        connection = cast(HTTP1Connection, request_conn)
        self._waiting.pop(connection.stream, None)
        if connection.stream in self._open:
            self._waiting[connection.stream] = None
        return _Heard(super().start_request(server_conn, request_conn), connection, self._waiting)

    def on_close(self, server_conn: object) -> None:
        self._forget(cast(HTTP1ServerConnection, server_conn).stream)
        super().on_close(server_conn)

    def _forget(self, stream: IOStream) -> None:
        self._open.pop(stream, None)
        self._waiting.pop(stream, None)


class _Heard(HTTPMessageDelegate):
    """Passes a request on; once it is complete, the connection no longer counts as waiting."""

    def __init__(
        self, delegate: HTTPMessageDelegate, connection: HTTP1Connection, waiting: dict[IOStream, None]
    ) -> None:
        self._delegate = delegate
        self._connection = connection
        self._stream = connection.stream
        self._waiting = waiting

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        if self._stream.closed():  # Tornado goes on parsing data that it had read before
            self._connection.detach()
            return None
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._waiting.pop(self._stream, None)
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()
