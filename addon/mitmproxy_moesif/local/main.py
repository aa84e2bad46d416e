"""`moesif-proxy collector`: the local collector and its page of received events, without a proxy."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from mitmproxy_moesif.config.arguments import OneLineParser, whole
from mitmproxy_moesif.config.text import quoted
from mitmproxy_moesif.local.collector import MAX_REQUEST_BYTES, collector_app
from mitmproxy_moesif.local.documents import Document
from mitmproxy_moesif.local.page import page_app
from mitmproxy_moesif.local.profiles import ProfileStore
from mitmproxy_moesif.local.server import MAX_PAGE_READ, bounded, open_server
from mitmproxy_moesif.local.store import KEEP_BYTES, KEEP_EVENTS, EventStore
from mitmproxy_moesif.web.access import Address

MOST_KEPT = 2**53 - 1


def main(arguments: Sequence[str]) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code: 0, or 1 with one line on stderr."""
    given = _parser().parse_args(arguments)
    try:
        asyncio.run(serve(given))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"moesif-proxy collector: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="moesif-proxy collector",
        description="A collector that speaks Moesif's API: its address is the api_endpoint of any Moesif SDK.",
        epilog="Any application id will do, and none is kept. The page of what was received answers only requests that "
        "name a loopback host.",
    )
    add = parser.add_argument
    add("--listen", default="127.0.0.1:8091", metavar="HOST:PORT", help="the collector; default: %(default)s")
    add("--page", default="127.0.0.1:8090", metavar="HOST:PORT", help="what was received; default: %(default)s")
    add("--database", type=Path, metavar="FILE", help="keeps what was received; default: in memory")
    add("--keep-events", type=_number, default=KEEP_EVENTS, metavar="N", help="the newest; default: %(default)s")
    add("--keep-bytes", type=_number, default=KEEP_BYTES, metavar="N", help="of these, in JSON; default: %(default)s")
    add("--config", type=Path, metavar="FILE", help="JSON for GET /v1/config (sampling); watched for changes")
    add("--rules", type=Path, metavar="FILE", help="JSON for GET /v1/rules (governance); watched for changes")
    return parser


def _number(text: str) -> int:
    if not (found := whole(text, MOST_KEPT)):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, {quoted(text)} was given")
    return found


async def serve(given: argparse.Namespace) -> None:
    """Serve until a signal. Raises `OSError` or `ValueError` with one line."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    config, rules = (_document(dict, "--config", given.config), _document(list, "--rules", given.rules))
    listen, page = _address("--listen", given.listen), _address("--page", given.page)
    async with AsyncExitStack() as opened:
        store = opened.enter_context(EventStore(given.database, given.keep_events, given.keep_bytes))
        profiles = opened.enter_context(ProfileStore(given.database))
        collector = collector_app(store, profiles, config, rules, loopback_only=listen.is_loopback)
        for name, address, server in (
            ("collector", listen, bounded(collector, MAX_REQUEST_BYTES)),
            ("page", page, bounded(page_app(store, profiles), MAX_PAGE_READ)),
        ):
            url = await open_server(name, address, server, opened)
            sys.stdout.write(f"moesif-proxy collector: {name} at {url}\n")
        sys.stdout.flush()
        await ended.wait()


def _address(name: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError:
        raise ValueError(f"{name}: must be HOST:PORT, such as 127.0.0.1:8091") from None


def _document(kind: type[dict[str, object]] | type[list[object]], name: str, file: Path | None) -> Document:
    """A document with its file's content. An invalid file is an error at start; later the old content would remain."""
    document = Document(kind, file)
    if file is not None:
        try:
            document.put(file.read_bytes())
        except OSError as error:
            raise OSError(f"{name}: {file}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{name}: {file}: {error}") from None
    return document
