"""The listener for people and monitoring: a small HTTP server in its own thread.

server = admin_server("127.0.0.1:8095", None, source)
server.start()
server.url ...
server.stop()
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tornado.web import Application

from mitmproxy_moesif.admin.handlers import admin_app
from mitmproxy_moesif.admin.source import AdminSource
from mitmproxy_moesif.log import log
from mitmproxy_moesif.web.access import Address, Gate
from mitmproxy_moesif.web.bounded import BoundedServer
from mitmproxy_moesif.web.loopback import is_bound_to_loopback
from mitmproxy_moesif.web.server import ServerThread, bind, url_of

# The rest of a request body is read before responding, but no more than this.
MAX_READ_BYTES = 1_000_000
MAX_HEAD_BYTES = 16_384
BODY_SECONDS = 10
IDLE_SECONDS = 60


class AdminServer(ServerThread):
    """Can be started and stopped once. `listen` is `HOST:PORT`; port 0 means any free one.

    Raises `ValueError` with one line for an invalid address, and for one beyond loopback without a token. With a token,
    all paths except `/health` and `/ping` require it: `Kong-Admin-Token: TOKEN` or `Authorization: Bearer TOKEN`.

    `start` raises `OSError` with one line if it cannot listen, and `ValueError` if a name resolves to more than
    loopback without a token. `stop` closes the port and all connections; responses in progress get its `timeout`. If
    the source waits for the calling thread, that wait also ends after `timeout`.

    `make` makes the application, given the gate to use; `what` names its content in the log.
    """

    def __init__(self, listen: str, token: str | None, make: Callable[[Gate], Application], what: str) -> None:
        super().__init__("moesif-admin", self._listening())
        self._what = what
        self._address = Address.parse(listen)
        self._gate = Gate(self._address, token)
        self._app = make(self._gate)
        self._port = self._address.port

    def start(self) -> None:
        super().start()
        log.info("moesif: %s at %s", self._what, self.url)

    @property
    def url(self) -> str:
        return url_of(self._address.host, self._port)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        sockets = bind("admin_listen", self._address)
        try:
            if not self._gate.demands_token and not all(map(is_bound_to_loopback, sockets)):
                address = self._address
                raise ValueError(f"admin_listen: {address} resolves to more than loopback, so admin_token is needed")
            self._port = sockets[0].getsockname()[1]
            server = BoundedServer(
                self._app,
                max_body_size=MAX_READ_BYTES,
                max_header_size=MAX_HEAD_BYTES,
                body_timeout=BODY_SECONDS,
                idle_connection_timeout=IDLE_SECONDS,
            )
            async with server.serving(sockets):
                yield
        finally:
            for bound in sockets:
                bound.close()


def admin_server(listen: str, token: str | None, source: AdminSource) -> AdminServer:
    """The listener of one process, with all paths."""
    return AdminServer(listen, token, lambda gate: admin_app(source, gate), "status, metrics and Admin API")
