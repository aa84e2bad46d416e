"""Connections are taken while there is room for them; the others wait in the kernel."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mitmproxy_moesif.log import RateLimitedLog

BACKLOG = 2048
"""Connections that the kernel keeps until they are accepted; asyncio's own 100 turns a burst away."""

PAUSE = 0.2
"""Seconds until the next attempt where descriptors have run short."""

OWN = 64
"""Descriptors that are not for connections: logs, the spool, the Admin API."""

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

type Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
type Open = Callable[[Callable[[], None]], asyncio.Protocol | None]
"""Given what is to be called when the connection has ended, its protocol; None where `Serve` is to have it."""


def affordable() -> int:
    """Connections for which there are descriptors: each needs one more toward the upstream."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else max(1, (soft - OWN) // 2)


class Room:
    """For `most` connections at a time, of all sockets together."""

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
        """Until there may be descriptors again. Raises the error where it is another."""
        if error.errno not in SHORTAGES:
            raise error
        self._limited.warning("short", "moesif-proxy: %s: new connections wait", error.strerror)
        await asyncio.sleep(PAUSE)


class Acceptor:
    """As much of an asyncio server as mitmproxy uses, for one socket."""

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
        """Until then connections are refused."""
        self._socket.listen(BACKLOG)
        self._accepting = asyncio.ensure_future(self._accept())

    def close(self) -> None:
        """What was accepted is served: a connection whose opening is cancelled is closed behind its protocol's back."""
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
            await asyncio.sleep(0)  # a burst must not hold up those who are connected

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
