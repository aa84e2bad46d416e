"""`moesif-proxy page`: the traffic page of a running proxy, on this machine's loopback."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from mitmproxy_moesif.config.arguments import OneLineParser
from mitmproxy_moesif.config.text import http_url, quoted
from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.loopback import is_loopback, names_loopback
from mitmproxy_moesif.web.server import bind, url_of

if TYPE_CHECKING:
    from mitmproxy_moesif.page.admin import Admin

MISSING = "the traffic page needs NiceGUI: python -m pip install 'nicegui>=3,<4'"


def is_there() -> bool:
    """Whether the extra `page` is installed."""
    return importlib.util.find_spec("nicegui") is not None


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, or 1 with one line on stderr."""
    given = _parse(arguments)
    try:
        if not is_there():
            raise OSError(MISSING)
        address = _loopback(given.listen)
        _check("--admin", given.admin)
        if given.proxy is not None:
            _check_proxy(given.proxy)
        serve(given, bind("--listen", address))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"moesif-proxy page: {error}\n")
        return 1
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="moesif-proxy page",
        description="Show what a running proxy captures, masks and sends, in a browser of this machine.",
        epilog="The admin listener's token is read from the environment variable MOESIF_ADMIN_TOKEN.",
    )
    parser.add_argument(
        "--admin", default="http://127.0.0.1:8095", metavar="URL", help="the proxy's admin listener (%(default)s)"
    )
    parser.add_argument(
        "--listen", default="127.0.0.1:8090", metavar="HOST:PORT", help="where to serve the page (%(default)s)"
    )
    parser.add_argument(
        "--proxy", default=None, metavar="URL", help="loopback URL of the proxy; with it, requests can be replayed"
    )
    parser.add_argument("--events", default=None, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _loopback(listen: str) -> Address:
    try:
        address = Address.parse(listen)
    except ValueError:
        raise ValueError("--listen: must be HOST:PORT, such as 127.0.0.1:8090") from None
    if not is_loopback(address.host):
        raise ValueError(f"--listen: {address} is not a loopback address: the page is only for this machine")
    return address


def _check(name: str, url: str) -> SplitResult:
    try:
        return http_url(url)
    except ValueError as error:
        raise ValueError(f"{name}: {error}, such as http://127.0.0.1:8095; {quoted(url)} was given") from None


def _check_proxy(url: str) -> None:
    if not names_loopback(_check("--proxy", url).netloc):
        raise ValueError(f"--proxy: {url} is not a loopback URL: requests are only replayed on this machine")


def serve(given: argparse.Namespace, sockets: list[socket.socket]) -> None:
    """Serve until SIGINT or SIGTERM."""
    from nicegui import app, ui

    from mitmproxy_moesif.page.admin import Admin
    from mitmproxy_moesif.page.app import Source, add_page
    from mitmproxy_moesif.page.gate import LoopbackOnly
    from mitmproxy_moesif.page.passing import EventPaths

    admin = Admin(given.admin.rstrip("/"), os.environ.get("MOESIF_ADMIN_TOKEN"))
    add_page(Source(admin, given.proxy))
    if given.events is not None:
        app.middleware("http")(EventPaths(given.events))
    app.add_middleware(LoopbackOnly)
    first, *more = sockets  # one is already listening, so that the page is reachable when its address is printed
    for taken in more:
        taken.close()
    host, port = first.getsockname()[:2]
    app.on_startup(lambda: _say(f"moesif-proxy page: {url_of(host, port)} shows {given.admin}"))
    if given.events is None:  # `make run` starts its page before its proxy
        app.on_startup(lambda: _tell_trouble(admin))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # uvicorn raises the signal again when it has ended
    with suppress(KeyboardInterrupt):
        ui.run(
            host=host,
            port=port,
            fd=first.fileno(),
            title="Traffic",
            favicon="🔎",
            reload=False,
            show=False,
            show_welcome_message=False,
        )


async def _tell_trouble(admin: Admin) -> None:
    """Print problems in the terminal too, before the page is opened."""
    if (trouble := await admin.trouble()) is not None:
        sys.stderr.write(f"moesif-proxy page: {trouble}; the page keeps trying\n")
        sys.stderr.flush()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
