"""The upstream of the stacks: `make run`'s echo as a service, `python echo.py ADDRESS:PORT`.

It answers with what it was asked, so that a curl shows what Kong and the addon made of the request.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from tornado.httpserver import HTTPServer

from mitmproxy_moesif.local.echo import EchoService


async def serve(address: str, port: int) -> None:
    """Until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    echo = EchoService()
    server = HTTPServer(echo)
    server.listen(port, address)
    await ended.wait()
    server.stop()
    await echo.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    host, _, number = sys.argv[1].rpartition(":")
    asyncio.run(serve(host, int(number)))
