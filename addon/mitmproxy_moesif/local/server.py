"""The local stack: collector, page and echo upstream, each on its own port, started and stopped together.

    async with LocalStack() as stack:        # inside a running asyncio loop
        stack.collector_url ...

    with start_in_thread(8090) as stack:     # from anywhere
        stack.page_url ...

Raises `OSError` with one line that names the port or file, if a port is taken or a file is unusable; then nothing is
left running.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from math import inf
from pathlib import Path
from typing import Self

from tornado.web import Application

from mitmproxy_moesif.local.collector import MAX_REQUEST_BYTES, collector_app
from mitmproxy_moesif.local.documents import Document
from mitmproxy_moesif.local.echo import EchoService
from mitmproxy_moesif.local.page import page_app
from mitmproxy_moesif.local.profiles import ProfileStore
from mitmproxy_moesif.local.store import EventStore
from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.bounded import BoundedServer
from mitmproxy_moesif.web.server import ServerThread, bind, url_of

# The echo reads larger bodies to the end, to respond with 413 instead of closing, but no more than this.
MAX_ECHO_READ = 2**30
# The page has no request bodies.
MAX_PAGE_READ = 65_536

MOST_CONNECTIONS = 250
"""Of the collector and the page, each. The echo has no limit: that is up to the proxy in front of it."""


class LocalStack:
    """Collector, page and echo on loopback, in the running asyncio loop. The three URLs are valid once it is entered.

    Port 0 means any free one. `database` is the file for received events; None means in memory.
    """

    def __init__(self, page_port: int = 0, database: Path | None = None) -> None:
        self._page_port = page_port
        self._database = database
        self.config, self.rules = Document(dict), Document(list)
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            self.store = opened.enter_context(EventStore(self._database))
            self.profiles = opened.enter_context(ProfileStore(self._database))
            collector = collector_app(self.store, self.profiles, self.config, self.rules, loopback_only=True)
            page, echo = page_app(self.store, self.profiles), EchoService()
            opened.push_async_callback(echo.stop)
            self.collector_url, self.page_url, self.echo_url = [
                await open_server(f"local {name}", Address("127.0.0.1", port), server, opened)
                for name, port, server in (
                    ("collector", 0, bounded(collector, MAX_REQUEST_BYTES)),
                    ("page", self._page_port, bounded(page, MAX_PAGE_READ)),
                    ("echo", 0, BoundedServer(echo, max_body_size=MAX_ECHO_READ, most_connections=inf)),
                )
            ]
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop everything, even during a response. No effect the second time."""
        await self._opened.aclose()


def bounded(app: Application, most_bytes: int) -> BoundedServer:
    return BoundedServer(app, max_body_size=most_bytes, most_connections=MOST_CONNECTIONS)


async def open_server(what: str, address: Address, server: BoundedServer, opened: AsyncExitStack) -> str:
    """Serve until `opened` is closed; returns the URL. Raises `OSError` with one line that begins with `what`."""
    sockets = bind(what, address)
    for each in sockets:
        opened.callback(each.close)
    await opened.enter_async_context(server.serving(sockets))
    return url_of(address.host, sockets[0].getsockname()[1])


@contextmanager
def start_in_thread(page_port: int = 0, database: Path | None = None) -> Iterator[LocalStack]:
    """Run the local stack in a thread until the end of the block. Raises `OSError`."""
    stack = LocalStack(page_port, database)
    thread = ServerThread("moesif-local", stack)
    thread.start()
    try:
        yield stack
    finally:
        thread.stop(10)
