"""The local stack: collector, page and echo upstream together, each on a port of its own, ended together.

    async with LocalStack(LocalSettings(collector_port=0)) as stack:   # inside a running asyncio loop
        stack.collector_url ...

    with start_in_thread(LocalSettings()) as stack:                     # from anywhere
        stack.page_url ...

Raises `OSError` with one line that names the port or the file when a port is taken or a file is no good; nothing is
left running then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
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
    """Collector, page and echo in the running asyncio loop. The three URLs are valid once it is entered."""

    def __init__(self, settings: LocalSettings | None = None) -> None:
        self._settings = settings or LocalSettings()
        self.config = Document(dict, self._settings.config_file)
        self.rules = Document(list, self._settings.rules_file)
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        given, loopback_only = self._settings, is_loopback(self._settings.host)
        async with AsyncExitStack() as opened:
            self.store = opened.enter_context(EventStore(given.database, given.keep_events))
            self.profiles = opened.enter_context(ProfileStore(given.database))
            stores = self.store, self.profiles
            collector = collector_app(*stores, self.config, self.rules, loopback_only=loopback_only)
            page = page_app(*stores, loopback_only=loopback_only)
            echo = EchoService()
            opened.push_async_callback(echo.stop)
            self.collector_url, self.page_url, self.echo_url = (
                open_server(f"local {name}", Address(given.host, port), HTTPServer(app, max_body_size=most), opened)
                for name, port, app, most in (
                    ("collector", given.collector_port, collector, MAX_REQUEST_BYTES),
                    ("page", given.page_port, page, MAX_PAGE_READ),
                    ("echo", given.echo_port, echo, MAX_ECHO_READ),
                )
            )
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends all, in the middle of an answer too. Does nothing the second time."""
        await self._opened.aclose()


def open_server(what: str, address: Address, server: HTTPServer, opened: AsyncExitStack) -> str:
    """Until `opened` is closed; its URL. Raises `OSError` with one line that begins with `what`."""
    sockets = bind(what, address)
    server.add_sockets(sockets)
    opened.push_async_callback(server.close_all_connections)
    opened.callback(server.stop)
    return url_of(address.host, sockets[0].getsockname()[1])


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
