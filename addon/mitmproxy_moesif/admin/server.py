"""The listener for people and monitors: a small HTTP server in a thread of its own.

    server = AdminServer("127.0.0.1:8095", None, source)
    server.start()
    server.url ...
    server.stop()

It has an asyncio loop of its own, so a slow reader costs the traffic nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from mitmproxy_moesif.admin.handlers import Parts, admin_app
from mitmproxy_moesif.admin.source import AdminSource
from mitmproxy_moesif.log import describe, log
from mitmproxy_moesif.web.access import Address, Gate

# Beyond what a handler takes, the rest of a body is read to be able to answer; no further than this.
MAX_READ_BYTES = 1_000_000
MAX_HEAD_BYTES = 16_384
BODY_SECONDS = 10
IDLE_SECONDS = 60
STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class MakeApp:
    """An application in place of the listener's own, made with the gate that it has to ask."""

    make: Callable[[Gate], Application]


class AdminServer:
    """Started once, stopped once. `listen` is `HOST:PORT`, port 0 any free one.

    Raises `ValueError` with one line for an address that is none, and for one beyond loopback without a token. Where
    there is a token, all but `/health` and `/ping` asks for it: `Kong-Admin-Token: TOKEN` or `Authorization: Bearer
    TOKEN`.
    """

    def __init__(self, listen: str, token: str | None, source: AdminSource | MakeApp) -> None:
        self._address = Address.parse(listen)
        self._gate = Gate(self._address, token)
        self._app = source.make(self._gate) if isinstance(source, MakeApp) else admin_app(Parts(source, self._gate))
        self._port = self._address.port
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._ending = asyncio.Event()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Without a slash at the end; loopback stands for an address that means every interface."""
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._address.host, self._address.host)  # noqa: S104
        return f"http://{Address(name, self._port)}"

    def start(self) -> None:
        """Listen. Raises `OSError` with one line where that cannot be, `ValueError` for a name that is not loopback."""
        sockets = self._bind()
        self._port = sockets[0].getsockname()[1]
        thread = threading.Thread(target=self._run, args=[sockets], name="moesif-admin", daemon=True)
        thread.start()
        self._loop.result()
        self._thread = thread

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Close the port and all connections; an answer under way has `timeout` seconds. A second call does nothing.

        Where the source waits for the calling thread, that wait ends with `timeout` too.
        """
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.result().call_soon_threadsafe(self._ending.set)
            thread.join(timeout)

    def _bind(self) -> list[socket.socket]:
        address = self._address
        try:
            sockets = bind_sockets(address.port, address.host)
        except (OSError, UnicodeError) as error:
            why = (isinstance(error, OSError) and error.strerror) or error
            raise OSError(f"admin_listen: cannot listen on {address}: {why}") from None
        if not self._gate.demands_token and not all(map(is_bound_to_loopback, sockets)):
            for bound in sockets:
                bound.close()
            raise ValueError(f"admin_listen: {address} resolves to more than loopback, so admin_token is needed")
        return sockets

    def _run(self, sockets: list[socket.socket]) -> None:
        try:
            asyncio.run(self._serve(sockets))
        except Exception as error:  # noqa: BLE001 - a thread must not die without a word
            if self._loop.done():
                log.error("moesif: the admin listener has ended: %s", describe(error))
            else:
                self._loop.set_exception(error)
        finally:
            for bound in sockets:
                bound.close()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        server = HTTPServer(
            self._app,
            max_body_size=MAX_READ_BYTES,
            max_header_size=MAX_HEAD_BYTES,
            body_timeout=BODY_SECONDS,
            idle_connection_timeout=IDLE_SECONDS,
        )
        server.add_sockets(sockets)
        self._loop.set_result(asyncio.get_running_loop())
        await self._ending.wait()
        server.stop()
        await server.close_all_connections()


def is_bound_to_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach what listens there."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback
