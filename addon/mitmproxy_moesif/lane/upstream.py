"""Upstream connections, and the pool that keeps them for the next exchange of any client."""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections import deque
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import server_hooks
from mitmproxy.proxy.layers.tls import HTTP2_ALPN, HTTP3_ALPN
from mitmproxy.proxy.server import logger
from mitmproxy.utils import human

from mitmproxy_moesif.capture.engine import MAX_HEAD
from mitmproxy_moesif.lane.bodies import Body
from mitmproxy_moesif.lane.destination import Destination
from mitmproxy_moesif.lane.exchange import Exchange, crashed
from mitmproxy_moesif.lane.heads import Framing, end_of_head, response_head, response_of, why_not_interim
from mitmproxy_moesif.lane.tls import UpstreamTls
from mitmproxy_moesif.lane.writing import AT_ONCE, Writing

if TYPE_CHECKING:
    from mitmproxy_moesif.lane.opening import Lane

IDLE = 30.0
"""Seconds after which an idle connection is closed."""

OLDEST = 300.0
"""Maximum age in seconds of a connection that is reused, because its host name may resolve differently by then."""

MOST_IDLE = 256
"""Maximum idle connections per destination."""

MOST_HEAD = 1_000_000
"""Maximum bytes of a response head."""

INTERIM_AT_ONCE = 16
"""Interim (1xx) responses that are read in one step."""


class UpstreamEnd(Writing, asyncio.Protocol):
    """One upstream connection. `exchange` is None while it is idle; there is never more than one at a time."""

    __slots__ = (
        "_body",
        "_buffer",
        "_ends",
        "_has_answered",
        "_has_heard",
        "_is_reading",
        "_is_reused",
        "_keeps",
        "_lane",
        "_looked",
        "_readable",
        "client",
        "destination",
        "exchange",
        "generation",
        "is_full",
        "kept_since",
        "opened",
        "server",
    )

    def __init__(self, lane: Lane, destination: Destination, server: Server, client: Client) -> None:
        super().__init__()
        self._lane = lane
        self.destination = destination
        self.generation = lane.pool.generation
        self.server = server
        self.client = client
        self.exchange: Exchange | None = None
        self._buffer = b""
        self._body: Body | None = None
        self._ends = self._has_answered = self._has_heard = self._keeps = False
        self._is_reading = self._is_reused = self.is_full = False
        self._looked = 0
        self._readable = select.poll()
        self.kept_since, self.opened = 0.0, time.monotonic()

    # From asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is of no class of asyncio's
        server = self.server
        server.timestamp_tcp_setup = time.time()
        server.state = ConnectionState.OPEN
        server.peername = transport.get_extra_info("peername")
        server.sockname = transport.get_extra_info("sockname")
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # unsolicited data
            self.transport.abort()
            return
        exchange.client.active = self._has_heard = True
        self._buffer = self._buffer + data if self._buffer else data
        self.go_on()

    def eof_received(self) -> None:
        self.server.state &= ~ConnectionState.CAN_READ
        self._end_of_stream()

    def connection_lost(self, _error: Exception | None) -> None:
        self.server.state = ConnectionState.CLOSED
        self._end_of_stream()
        self._lane.pool.lost(self)

    def _end_of_stream(self) -> None:
        self._ends = True
        self.go_on()

    def pause_writing(self) -> None:
        self.is_full = True
        self._regulate()

    def resume_writing(self) -> None:
        self.is_full = False
        self._regulate()

    def _regulate(self) -> None:
        if self.exchange is not None:
            self.exchange.client.regulate()

    # Received data

    def go_on(self) -> None:
        """Process buffered data until something has to be waited for."""
        exchange = self.exchange
        if exchange is None or self._is_reading:
            return
        self._is_reading = True
        try:
            for _ in range(AT_ONCE):
                if self.exchange is not exchange or exchange.is_waiting or not self._read(exchange):
                    break
            else:
                asyncio.get_running_loop().call_soon(self.go_on)
        except Exception:  # noqa: BLE001 - an addon's error in a stream is logged as mitmproxy does
            crashed(exchange.client)
            exchange.client.abort()
        finally:
            self._is_reading = False
        exchange.client.flush()
        exchange.client.regulate()

    def _read(self, exchange: Exchange) -> bool:
        """Do one step; true if another may follow."""
        if self._body is not None:
            return self._read_body(exchange, self._body)
        if self._has_answered:
            if self._ends:
                exchange.upstream_failed("server closed connection")
            return False
        return self._read_head(exchange)

    def _read_head(self, exchange: Exchange) -> bool:
        """Read the final head, or up to `INTERIM_AT_ONCE` interim ones, so that the rest is copied only once."""
        buffer, start = self._buffer, 0
        for _ in range(INTERIM_AT_ONCE):
            found = end_of_head(buffer, max(start, self._looked - 3))
            if found is None:
                self._buffer = buffer[start:]
                self._looked = len(self._buffer)
                self._await_head(exchange)
                return False
            end, behind = found
            self._looked = 0
            try:
                response, framing, body = response_of(buffer[start:end], exchange.asked_method)
            except ValueError as error:
                exchange.upstream_failed(str(error))
                return False
            start = behind
            if response.data.status_code >= 200:
                self._buffer = buffer[start:]
                self._begin_answer(exchange, response, framing, body)
                return True
            if (why := why_not_interim(response, framing)) is not None:
                exchange.upstream_failed(why)
                return False
            if response.data.status_code != 100 and exchange.reads_interim:
                exchange.client.send(response_head(response))
        self._buffer = buffer[start:]
        return True

    def _await_head(self, exchange: Exchange) -> None:
        if not self._ends:
            if len(self._buffer) > MOST_HEAD:
                exchange.upstream_failed("Cannot parse HTTP response: its head is too long")
        elif self._is_reused and not self._has_heard and exchange.may_be_sent_again:
            exchange.send_again()
        elif self._buffer:
            exchange.upstream_failed(f"unexpected server response: {self._buffer!r}")
        else:
            exchange.upstream_failed("server closed connection")

    def _begin_answer(self, exchange: Exchange, response: http.Response, framing: Framing, body: Body) -> None:
        self._has_answered = True
        self._body = body
        self._keeps = not framing.closes(response.data.http_version) and not exchange.asks_to_close
        exchange.response_began(response, framing, has_body=body.is_some)

    def _read_body(self, exchange: Exchange, body: Body) -> bool:
        try:
            if self._buffer:
                body.feed(self._buffer)
                self._buffer = b""
            piece = body.next()
            if piece is None and self._ends:
                body.end_of_stream()
                piece = body.next()
        except ValueError as error:
            exchange.upstream_failed(str(error))
            return False
        if piece is None:
            return False
        if piece:
            exchange.response_data(piece)
            return True
        self._buffer = body.rest()
        self._body = None
        exchange.response_end(body.trailers)
        return True

    @property
    def holds_much(self) -> bool:
        """Whether much data is buffered that cannot be processed yet, or that came after the end of a response."""
        exchange = self.exchange
        return len(self._buffer) > MAX_HEAD and (self._has_answered or (exchange is not None and exchange.is_waiting))

    # Called by an exchange

    def release(self) -> None:
        """The exchange has ended without an error: keep the connection for another one if it is still usable."""
        self.flush()
        self.exchange = None
        is_sound = self._keeps and not self._ends and not self._buffer and self._body is None
        if is_sound and not self.transport.get_write_buffer_size() and not self.transport.is_closing():
            self._lane.pool.keep(self)
            return
        self.transport.close()
        if self.transport.get_write_buffer_size():  # the upstream may never read it
            asyncio.get_running_loop().call_later(IDLE, self.transport.abort)

    def drop(self) -> None:
        """The exchange has failed: abort the connection."""
        self.exchange = None
        self.transport.abort()

    def take(self) -> bool:
        """Take the connection for the next exchange; false if it was closed or has sent unsolicited data meanwhile.

        This polls the socket, because unsolicited data not yet seen by the event loop would become the next response.
        """
        self._is_reused = True
        self._has_answered = self._has_heard = self._keeps = False
        if self._ends or self.transport.is_closing():
            return False
        if self._readable.poll(0):
            self.transport.abort()
            return False
        return True


class Pool:
    """Idle connections by destination; the newest is taken first. `renew` increases `generation`."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.generation = 0
        self._kept: dict[Destination, deque[UpstreamEnd]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, destination: Destination) -> UpstreamEnd | None:
        kept = self._kept.get(destination)
        while kept:
            end = kept.pop()
            if end.take():
                return end
        return None

    async def open(self, destination: Destination, client: Client) -> UpstreamEnd:
        """Open a connection, TLS included. Raises `OSError` with mitmproxy's message."""
        host, port, sni = destination
        server = Server(address=(host, port), tls=sni is not None, sni=sni)
        # mitmproxy offers all of the client's protocols, even newer ones, though they agreed on HTTP/1.
        server.alpn_offers = [each for each in client.alpn_offers if each not in (HTTP2_ALPN, HTTP3_ALPN)]
        data = server_hooks.ServerConnectionHookData(client=client, server=server)
        await self._tell(server_hooks.ServerConnectHook, data)
        if server.error:
            await self._tell(server_hooks.ServerConnectErrorHook, data)
            raise OSError(f"Connection killed: {server.error}")
        assert server.address is not None
        server.timestamp_start = time.time()
        end = UpstreamEnd(self._lane, destination, server, client)
        tls = UpstreamTls(self._lane, end, client, server) if server.tls else None
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: tls or end, *server.address[:2], local_addr=server.sockname
            )
        except (OSError, asyncio.CancelledError) as error:
            server.error = str(error) or "connection cancelled"
            self._log(client, f"error establishing server connection: {server.error}")
            await self._tell(server_hooks.ServerConnectErrorHook, data)
            raise
        self._log(client, f"server connect {name_of(server)}")
        try:
            await self._tell(server_hooks.ServerConnectedHook, data)
            if tls is not None:
                await tls.establish()
        except asyncio.CancelledError:
            end.drop()
            raise
        return end

    def keep(self, end: UpstreamEnd) -> None:
        kept = self._kept.get(end.destination)
        if kept is None:
            kept = self._kept[end.destination] = deque()
        now = time.monotonic()
        is_old = end.generation != self.generation or now - end.opened > OLDEST
        if self._lane.is_over or is_old or len(kept) >= MOST_IDLE:
            end.transport.close()
            return
        end.pause(wanted=False)
        end.kept_since = now
        kept.append(end)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE, self._close_idle)

    def lost(self, end: UpstreamEnd) -> None:
        """A connection was closed, by either side."""
        kept = self._kept.get(end.destination, deque())
        if end in kept:
            kept.remove(end)
        end.server.timestamp_end = time.time()
        self._log(end.client, f"server disconnect {name_of(end.server)}")
        data = server_hooks.ServerConnectionHookData(client=end.client, server=end.server)
        self._lane.tell(server_hooks.ServerDisconnectedHook, data)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self.renew()

    def renew(self) -> None:
        """Stop reusing the connections opened so far. Exchanges in flight on them may finish."""
        self.generation += 1
        for kept in self._kept.values():
            for end in tuple(kept):
                end.transport.close()

    def _close_idle(self) -> None:
        before = time.monotonic() - IDLE
        for destination, kept in tuple(self._kept.items()):
            while kept and kept[0].kept_since <= before:
                kept.popleft().transport.close()
            if not kept:
                del self._kept[destination]
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(IDLE / 4, self._close_idle) if self._kept else None

    async def _tell(self, hook: type, data: server_hooks.ServerConnectionHookData) -> None:
        if (rest := self._lane.run(hook, data)) is not None:
            await rest

    def _log(self, client: Client, message: str) -> None:
        logger.log(logging.INFO, message, extra={"client": client.peername})


def name_of(server: Server) -> str:
    """The server's address as in mitmproxy's log. `peername` is None if the peer disconnected before it was read."""
    assert server.address is not None
    address = human.format_address(server.address)
    is_name = server.peername is not None and server.address[0] != server.peername[0]
    return f"{address} ({human.format_address(server.peername)})" if is_name else address
