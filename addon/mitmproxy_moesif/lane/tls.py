"""TLS to clients and upstreams: the handshake with mitmproxy's hooks, checks and messages, then without its layers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx
from mitmproxy.connection import Client, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.tls import ServerTLSLayer
from mitmproxy.proxy.server import logger
from OpenSSL import SSL

if TYPE_CHECKING:
    from mitmproxy_moesif.lane.opening import Lane

AT_ONCE = 65_535
"""Bytes that are read from TLS at once."""

MOST_UNREAD = 65_536
"""Maximum bytes of TLS's own replies (for example to key updates) while the peer does not read."""

type Commands = Generator[commands.Command, Any, Any]


class Handshake(ServerTLSLayer):
    """mitmproxy's TLS layer for upstreams, used for the handshake only. `early` is what came right after it."""

    def __init__(self, client: Client, server: Server) -> None:
        context = Context(client, ctx.options)
        context.server = server
        super().__init__(context)
        self.early: list[events.Event] = []

    def event_to_child(self, event: events.Event) -> Commands:
        self.early.append(event)
        yield from ()


class Tls(asyncio.Protocol, asyncio.Transport):
    """TLS on a connection after the handshake: the transport of `above`, and the protocol of the TCP transport."""

    tcp: asyncio.Transport
    tls: SSL.Connection

    def __init__(self, above: asyncio.Protocol, client: Client) -> None:
        super().__init__()
        self._above = above
        self._client = client
        self._is_over = self._is_full = False
        self._unread = 0
        self._unwritten: list[bytes] = []
        """Data to write after a renegotiation, which a TLS 1.2 upstream may start: nothing can be written meanwhile."""

    # From TCP

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self.tls.bio_write(data)
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self.tls.recv(AT_ONCE))
        except SSL.WantReadError:
            end = None
        except SSL.ZeroReturnError:
            self._is_over, end = True, self._end  # TLS would buffer further data that nobody reads
        except SSL.Error as error:
            self._log(f"TLS Error: {error}", logging.WARNING)
            end = self.abort
        said = self._send_out()  # TLS's replies to what was read
        if self._unwritten:
            self._write_again()
        if self._is_full:
            self._unread += said
            if self._unread > MOST_UNREAD:
                self._log("TLS Error: the peer keeps asking for new keys and reads nothing", logging.WARNING)
                end = self.abort
        if pieces:
            self._above.data_received(b"".join(pieces))
        if end is not None:
            end()

    def _end(self) -> None:
        """The peer has sent close_notify."""
        self._above.eof_received()

    def eof_received(self) -> bool | None:
        return self._above.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._above.connection_lost(error)

    def pause_writing(self) -> None:
        self._is_full = True
        if not self._unwritten:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        self._is_full, self._unread = False, 0
        if not self._unwritten:
            self._above.resume_writing()

    def _log(self, message: str, level: int) -> None:
        logger.log(level, message, extra={"client": self._client.peername})

    # As a transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._unwritten:
            self._unwritten.append(bytes(data))
        elif not self._encrypt(data):
            self._unwritten.append(bytes(data))
            if not self._is_full:
                self._above.pause_writing()
        self._send_out()

    def _encrypt(self, data: bytes | bytearray | memoryview) -> bool:
        """Encrypt all of `data`; false if nothing can be written during a renegotiation."""
        try:
            self.tls.sendall(data)
        except SSL.WantReadError:
            return False
        except SSL.Error:  # the peer no longer reads: drop the data
            pass
        return True

    def _write_again(self) -> None:
        if self._encrypt(b"".join(self._unwritten)):
            self._unwritten.clear()
            self._send_out()
            if not self._is_full:
                self._above.resume_writing()

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(pieces))

    def _send_out(self) -> int:
        """Write the encrypted data to TCP. Returns the number of bytes."""
        sent = 0
        with suppress(SSL.WantReadError):
            while True:
                data = self.tls.bio_read(AT_ONCE)
                sent += len(data)
                self.tcp.write(data)
        return sent

    def pause_reading(self) -> None:
        if not self.tcp.is_closing():
            self.tcp.pause_reading()

    def resume_reading(self) -> None:
        if not self.tcp.is_closing():
            self.tcp.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.tcp.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self.tcp.get_write_buffer_size() + sum(map(len, self._unwritten))

    def is_closing(self) -> bool:
        return self.tcp.is_closing()

    def close(self) -> None:
        """Close TCP without sending close_notify, as mitmproxy does."""
        self.tcp.close()

    def abort(self) -> None:
        self.tcp.abort()


class UpstreamTls(Tls):
    """TLS to an upstream. `above.connection_made` is called at once, before the handshake."""

    def __init__(self, lane: Lane, above: asyncio.Protocol, client: Client, server: Server) -> None:
        super().__init__(above, client)
        self._lane = lane
        self._handshake: Handshake | None = Handshake(client, server)
        self._came = b""
        self._has_ended = False
        self._more = asyncio.Event()

    # The handshake

    async def establish(self) -> None:
        """Do the handshake. Raises `OSError` with mitmproxy's message."""
        handshake = self._handshake
        assert handshake is not None
        error = await self._shake_hands(handshake)
        if error is not None:
            await self._follow(handshake.on_handshake_error(error))
            raise OSError(error)
        self.tls, self._handshake = handshake.tls, None
        for event in handshake.early:
            if isinstance(event, events.DataReceived):
                self._above.data_received(event.data)
            else:
                self._end()
        if self._came:
            self.data_received(self._came)
        self.resume_reading()

    async def _shake_hands(self, handshake: Handshake) -> str | None:
        await self._follow(handshake.start_tls())
        data = b""
        while handshake.tls is not None:
            done, failure = await self._follow(handshake.receive_handshake_data(data))
            if done or failure:
                return str(failure) if failure else None
            if not (data := await self._next()):
                break
        return "connection closed"

    async def _follow(self, asked: Commands) -> Any:
        """Execute the commands of mitmproxy's layer; returns its result."""
        while True:
            try:
                command = next(asked)
            except StopIteration as end:
                return end.value
            if isinstance(command, commands.SendData):
                self.tcp.write(command.data)
            elif isinstance(command, commands.CloseConnection):
                self.tcp.close()
            elif isinstance(command, commands.Log):
                self._log(command.message, command.level)
            elif isinstance(command, commands.StartHook):
                (data,) = command.args()
                if (rest := self._lane.run(type(command), data)) is not None:
                    await rest

    async def _next(self) -> bytes:
        """Wait for data; empty at the end of the stream."""
        self.resume_reading()
        while not self._came and not self._has_ended:
            self._more.clear()
            await self._more.wait()
        came, self._came = self._came, b""
        return came

    # From TCP

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.tcp = transport  # type: ignore[assignment]  # uvloop's is of no class of asyncio's
        self._above.connection_made(self)

    def data_received(self, data: bytes) -> None:
        if self._handshake is None:
            super().data_received(data)
            return
        self._came += data
        self.pause_reading()  # until `_next` resumes it
        self._more.set()

    def _end(self) -> None:
        super()._end()
        self.close()

    def eof_received(self) -> bool | None:
        self._has_ended = True
        self._more.set()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._has_ended = True
        self._more.set()
        super().connection_lost(error)


class ClientTls(Tls):
    """TLS to a client, after mitmproxy's layers did the handshake. Does not call `above.connection_made`."""

    def __init__(self, above: asyncio.Protocol, client: Client, tls: SSL.Connection, tcp: asyncio.Transport) -> None:
        super().__init__(above, client)
        self.tls, self.tcp = tls, tcp

    def close(self) -> None:
        """Send close_notify first: else a response that ends with the connection counts as cut off (RFC 8446, 6.1)."""
        if not self.is_closing():
            self._say_end()
        super().close()

    def _end(self) -> None:
        if not self._above.eof_received():
            self.close()

    def write_eof(self) -> None:
        self._say_end()
        self.tcp.write_eof()

    def _say_end(self) -> None:
        with suppress(SSL.Error):
            self.tls.shutdown()
        self._send_out()
