"""The local stack: collector, page and echo upstream together, each on a port of its own, ended together.

    async with LocalStack(LocalSettings(collector_port=0)) as stack:   # inside a running asyncio loop
        stack.collector_url ...

    with start_in_thread(LocalSettings()) as stack:                     # from anywhere
        stack.page_url ...

Raises `OSError` with one line that names the port or the file when a port is taken or a file is no good; nothing is
left running then.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tornado.httpserver import HTTPServer

from mitmproxy_moesif.local.collector import MAX_REQUEST_BYTES, collector_app
from mitmproxy_moesif.local.documents import Document
from mitmproxy_moesif.local.echo import EchoService
from mitmproxy_moesif.local.page import page_app
from mitmproxy_moesif.local.profiles import ProfileStore
from mitmproxy_moesif.local.store import KEEP_EVENTS, EventStore
from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.loopback import is_loopback
from mitmproxy_moesif.web.server import ServerThread, bind, url_of

# The echo reads a body to its end, to answer 413 rather than cut; no further than this.
MAX_ECHO_READ = 2**30
# The page takes no bodies.
MAX_PAGE_READ = 65_536


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Where the stack listens and what it keeps.

    A port of 0 is any free one. `database` is the file of received events, None for memory. `config_file` and
    `rules_file` hold what `GET /v1/config` and `GET /v1/rules` answer; a change of the file counts at once.
    """

    host: str = "127.0.0.1"
    collector_port: int = 0
    page_port: int = 8090
    echo_port: int = 0
    database: Path | None = None
    keep_events: int = KEEP_EVENTS
    config_file: Path | None = None
    rules_file: Path | None = None


class LocalStack:
    """Collector, page and echo in the running asyncio loop. The three URLs are valid from `start` on."""

    def __init__(self, settings: LocalSettings | None = None) -> None:
        self._settings = settings or LocalSettings()
        self.config = Document(dict, self._settings.config_file)
        self.rules = Document(list, self._settings.rules_file)
        self._echo = EchoService()
        self._servers: list[HTTPServer] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        given = self._settings
        self.store = EventStore(given.database, given.keep_events)
        self.profiles = ProfileStore(given.database)
        try:
            bound = _bind_all(
                given.host, {"collector": given.collector_port, "page": given.page_port, "echo": given.echo_port}
            )
        except OSError:
            self._close_stores()
            raise
        self.collector_url, self.page_url, self.echo_url = (
            url_of(given.host, sockets[0].getsockname()[1]) for sockets in bound
        )
        for server, sockets in zip(self._make_servers(is_loopback(given.host)), bound, strict=True):
            server.add_sockets(sockets)
            self._servers.append(server)

    async def stop(self) -> None:
        """Ends all, in the middle of an answer too. Does nothing the second time."""
        servers, self._servers = self._servers, []
        if not servers:
            return
        for server in servers:
            server.stop()
        await self._echo.stop()
        for server in servers:
            await server.close_all_connections()
        self._close_stores()

    def _close_stores(self) -> None:
        self.store.close()
        self.profiles.close()

    def _make_servers(self, loopback_only: bool) -> tuple[HTTPServer, HTTPServer, HTTPServer]:
        collector = collector_app(self.store, self.profiles, self.config, self.rules, loopback_only=loopback_only)
        return (
            HTTPServer(collector, max_body_size=MAX_REQUEST_BYTES),
            HTTPServer(page_app(self.store, self.profiles, loopback_only=loopback_only), max_body_size=MAX_PAGE_READ),
            HTTPServer(self._echo, max_body_size=MAX_ECHO_READ),
        )


def _bind_all(host: str, ports: dict[str, int]) -> list[list[socket.socket]]:
    """All or none: listening sockets for each port."""
    bound: list[list[socket.socket]] = []
    try:
        for name, port in ports.items():
            bound.append(bind(f"local {name}", Address(host, port)))
    except OSError:
        for taken in (one for sockets in bound for one in sockets):
            taken.close()
        raise
    return bound


@contextmanager
def start_in_thread(settings: LocalSettings | None = None) -> Iterator[LocalStack]:
    """The local stack beside whatever else this process does, from when it listens to the end of the block. Raises
    `OSError`."""
    stack = LocalStack(settings)
    thread = ServerThread("moesif-local", stack)
    thread.start()
    try:
        yield stack
    finally:
        thread.stop(10)
