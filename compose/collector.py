"""`make run`'s collector and its page as a service: `python collector.py ADDRESS COLLECTOR_PORT PAGE_PORT`.

Events are kept in memory. The page is for whoever sits at the machine that publishes it: it answers only requests that
name a loopback host, so that no website can have a browser read it.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from tornado.httpserver import HTTPServer

from mitmproxy_moesif.local.collector import MAX_REQUEST_BYTES, collector_app
from mitmproxy_moesif.local.documents import Document
from mitmproxy_moesif.local.page import page_app
from mitmproxy_moesif.local.store import EventStore


async def serve(address: str, collector_port: int, page_port: int) -> None:
    """Until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    with EventStore() as store:
        collector = collector_app(store, Document(dict), Document(list), loopback_only=False)
        servers = (
            HTTPServer(collector, max_body_size=MAX_REQUEST_BYTES),
            HTTPServer(page_app(store, loopback_only=True)),
        )
        for server, port in zip(servers, (collector_port, page_port), strict=True):
            server.listen(port, address)
        await ended.wait()
        for server in servers:
            server.stop()
            await server.close_all_connections()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
