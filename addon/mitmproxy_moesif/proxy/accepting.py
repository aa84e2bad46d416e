"""Accepts connections up to a limit; further ones wait in the kernel's backlog."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mitmproxy_moesif.log import RateLimitedLog

BACKLOG = 2048
"""The listen backlog: connections that the kernel queues. asyncio's default of 100 is too small for a burst."""

PAUSE = 0.2
"""Seconds until the next attempt after running out of file descriptors."""

OWN = 64
"""File descriptors reserved for other uses: logs, the spool, the Admin API."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
type Open = Callable[[Callable[[], None]], asyncio.Protocol | None]
"""Gets a callback for the end of a connection; returns its protocol, or None if `Serve` must handle it."""


def affordable() -> int:
    """How many connections the limit of file descriptors allows: each needs another one to the upstream."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(1, (soft - OWN) // 2)


class Room:
    """Limits all sockets together to `most` connections at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._freed = asyncio.Event()
        self._limited = RateLimitedLog()

    @property
    def is_full(self) -> bool:
        return self.taken >= self.most

    async def wait(self) -> None:
        while self.is_full:
            self._limited.warning(
                "full", "moesif-proxy: %d connections are open, --max-connections: others wait", self.taken
            )
            self._freed.clear()
            await self._freed.wait()

    def leave(self) -> None:
        self.taken -= 1
        self._freed.set()

    async def short(self, error: OSError) -> None:
        """Wait until file descriptors may be free again. Re-raises any other error."""
        if error.errno not in SHORTAGES:
            raise error
        self._limited.warning("short", "moesif-proxy: %s: new connections wait", error.strerror)
        await asyncio.sleep(PAUSE)


class Acceptor:
    """A server for one socket, with the part of `asyncio.Server`'s interface that mitmproxy uses."""

    def __init__(self, listening: socket.socket, serve: Serve, room: Room, open_: Open) -> None:
        self._socket = listening
        self._serve = serve
        self._open_protocol = open_
        self._room = room
        self._accepting: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._socket,)

    async def start_serving(self) -> None:
        """Start listening. Until then connections are refused."""
        self._socket.listen(BACKLOG)
        self._accepting = asyncio.ensure_future(self._accept())

    def close(self) -> None:
        """Stop accepting. Accepted connections are still served: cancelling would close them without their protocol."""
        if self._accepting is not None:
            self._accepting.cancel()
        self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.wait()
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                await self._room.short(error)
                continue
            self._room.taken += 1
            opening = asyncio.ensure_future(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
            await asyncio.sleep(0)  # a burst must not delay existing connections

    async def _open(self, connection: socket.socket) -> None:
        protocol = self._open_protocol(self._room.leave)
        if protocol is None:
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._connected)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except OSError:
            connection.close()
            self._room.leave()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            with suppress(OSError):
                writer.close()
            self._room.leave()
