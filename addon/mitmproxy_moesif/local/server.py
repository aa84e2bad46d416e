"""The local stack: collector, page and echo upstream together, each on a port of its own, ended together.

    async with LocalStack(LocalSettings(collector_port=0)) as stack:   # inside a running asyncio loop
        stack.collector_url ...

    with start_in_thread(LocalSettings()) as stack:                     # from anywhere
        stack.page_url ...

Raises `OSError` with one line that names the port or the file when a port is taken or a file is no good; nothing is
left running then.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from mitmproxy_moesif.local.collector import MAX_REQUEST_BYTES, collector_app
from mitmproxy_moesif.local.documents import Document
from mitmproxy_moesif.local.echo import EchoService
from mitmproxy_moesif.local.page import page_app
from mitmproxy_moesif.local.store import KEEP_EVENTS, EventStore
from mitmproxy_moesif.web.loopback import is_loopback

# The echo reads a body to its end, to answer 413 rather than cut; no further than this.
MAX_ECHO_READ = 2**30
# The page takes no bodies.
MAX_PAGE_READ = 65_536
MAX_PORT = 65_535


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
        try:
            bound = _bind_all(
                given.host, {"collector": given.collector_port, "page": given.page_port, "echo": given.echo_port}
            )
        except OSError:
            self.store.close()
            raise
        self.collector_url, self.page_url, self.echo_url = (_url(given.host, sockets) for sockets in bound)
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
        self.store.close()

    def _make_servers(self, loopback_only: bool) -> tuple[HTTPServer, HTTPServer, HTTPServer]:
        collector = collector_app(self.store, self.config, self.rules, loopback_only=loopback_only)
        return (
            HTTPServer(collector, max_body_size=MAX_REQUEST_BYTES),
            HTTPServer(page_app(self.store, loopback_only=loopback_only), max_body_size=MAX_PAGE_READ),
            HTTPServer(self._echo, max_body_size=MAX_ECHO_READ),
        )


def _bind_all(host: str, ports: dict[str, int]) -> list[list[socket.socket]]:
    """All or none: listening sockets for each port."""
    bound: list[list[socket.socket]] = []
    try:
        for name, port in ports.items():
            bound.append(_bind(host, name, port))
    except OSError:
        for taken in (one for sockets in bound for one in sockets):
            taken.close()
        raise
    return bound


def _bind(host: str, name: str, port: int) -> list[socket.socket]:
    try:
        if not 0 <= port <= MAX_PORT:  # the resolver would take it modulo 65536
            raise ValueError(f"a port is a number from 0 to {MAX_PORT}")
        return bind_sockets(port, host)
    except (OSError, ValueError) as error:  # a host that is no name is a ValueError (UnicodeError)
        why = (isinstance(error, OSError) and error.strerror) or error
        raise OSError(f"local {name}: cannot listen on {host}:{port}: {why}") from None


def _url(host: str, sockets: list[socket.socket]) -> str:
    """Loopback stands for an address that means every interface: one cannot connect to that."""
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://{f'[{name}]' if ':' in name else name}:{sockets[0].getsockname()[1]}"


class LocalThread:
    """A `LocalStack` in a thread of its own. Made by `start_in_thread`; `stop` ends it, also from another thread."""

    def __init__(self, settings: LocalSettings | None) -> None:
        self._stack = LocalStack(settings)
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="moesif-local", daemon=True)
        self._thread.start()
        try:
            self._loop = self._started.result()
        except Exception:
            self._thread.join()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def collector_url(self) -> str:
        return self._stack.collector_url

    @property
    def page_url(self) -> str:
        return self._stack.page_url

    @property
    def echo_url(self) -> str:
        return self._stack.echo_url

    @property
    def store(self) -> EventStore:
        return self._stack.store

    @property
    def config(self) -> Document:
        return self._stack.config

    @property
    def rules(self) -> Document:
        return self._stack.rules

    def stop(self, timeout: float = 10) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(timeout)

    async def _run(self) -> None:
        try:
            await self._stack.start()
        except Exception as error:  # noqa: BLE001 - raised again where the thread was started
            self._started.set_exception(error)
            return
        self._started.set_result(asyncio.get_running_loop())
        try:
            await self._ending.wait()
        finally:
            await self._stack.stop()


def start_in_thread(settings: LocalSettings | None = None) -> LocalThread:
    """Starts the local stack beside whatever else this process does, and returns once it listens. Raises `OSError`."""
    return LocalThread(settings)
