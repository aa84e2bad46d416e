"""The command line of `moesif-proxy`. Independent of mitmproxy and of processes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mitmproxy_moesif import __version__
from mitmproxy_moesif.config.arguments import OneLineParser, seconds, up_to, whole
from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.text import http_url, quoted
from mitmproxy_moesif.web.access import Address

DESCRIPTION = "A reverse proxy in front of or behind Kong, or any HTTP API, that captures every exchange."
EPILOG = (
    "SIGTERM ends it when exchanges and events are done, a second one at once; SIGHUP reads --config again. "
    "Other commands: `python -m mitmproxy_moesif` prints the path of the script for `mitmdump -s`, "
    "`python -m mitmproxy_moesif run` starts the proxy with a local collector, "
    "`moesif-proxy doctor` checks what a start would meet, `moesif-proxy collector` takes events without an account, "
    "`moesif-proxy backfill` sends saved traffic, "
    "`moesif-proxy page` shows the traffic of a running proxy, `moesif-proxy spool` lists and settles stored "
    "events that nobody sends, `moesif-proxy forward` delivers events from Kafka, and "
    "`python -m mitmproxy_moesif proxy` is this command."
)
MAX_WORKERS = 256
MAX_CONNECTIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class Arguments:
    """The parsed command line; `settings` are `name=value`, timeouts are in seconds.

    `max_connections` is None for as many as the limit of file descriptors allows.
    """

    upstream: str | None
    listen: Address
    workers: int
    settings: tuple[str, ...]
    scripts: tuple[str, ...]
    config: Path | None
    forwarded: bool
    tls_cert: Path | None
    drain_timeout: float
    max_connections: int | None
    header_timeout: float
    keepalive_timeout: float
    access_log: str | None
    options: bool = False
    """Only list the options."""


def parse(arguments: Sequence[str]) -> Arguments:
    """Parse the command line. If it is invalid, ends the process with one line on stderr and code 2."""
    return arguments_of(option_parser("moesif-proxy", DESCRIPTION, EPILOG).parse_args(arguments))


def arguments_of(given: argparse.Namespace) -> Arguments:
    said = {each.name: getattr(given, each.name) for each in fields(Arguments)}
    lists = {"settings": tuple(given.settings), "scripts": tuple(given.scripts)}
    return Arguments(**{**said, **lists, "forwarded": given.forwarded == "append"})


def option_parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The parser for a program that takes the proxy's command line."""
    parser = OneLineParser(prog=program, description=description, epilog=epilog, allow_abbrev=False)
    add = parser.add_argument
    add("--upstream", type=_upstream, metavar="URL", help="http://host:port or https://host:port to pass requests to")
    add("--listen", type=_address, default="0.0.0.0:8080", metavar="HOST:PORT", help="default: %(default)s")
    add("--workers", type=up_to(MAX_WORKERS), default=1, metavar="N", help="processes that share the port; default: 1")
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help="an option; repeatable")
    add("-s", "--script", dest="scripts", action="append", default=[], metavar="FILE", help="a mitmproxy addon")
    add("--config", type=_file, metavar="FILE", help="YAML file of options; the command line overrides it")
    add(
        "--forwarded",
        choices=("append", "off"),
        default="append",
        help="X-Forwarded-* toward the upstream; default: append",
    )
    add("--tls-cert", type=_file, metavar="PEM", help="serve TLS with this certificate chain and key")
    add(
        "--drain-timeout",
        type=seconds,
        default="5",
        metavar="SECONDS",
        help="for exchanges under way at the end; default: 5",
    )
    add(
        "--max-connections",
        type=up_to(MAX_CONNECTIONS),
        metavar="N",
        help="of clients, for each worker; others wait; default: as many as the limit of open files allows",
    )
    add(
        "--header-timeout", type=seconds, default="30", metavar="SECONDS", help="for the head of a request; default: 30"
    )
    add(
        "--keepalive-timeout",
        type=seconds,
        default="75",
        metavar="SECONDS",
        help="for a connection without requests; default: 75",
    )
    add(
        "--access-log",
        choices=("combined", "json", "short", "off"),
        help="a line on standard output for each request; default: short on a terminal, otherwise off",
    )
    add("--options", action="store_true", help="list all options with their defaults and help, and exit")
    add("--version", action="version", version=f"moesif-proxy {__version__}, Python {sys.version.split()[0]}")
    return parser


def _upstream(text: str) -> str:
    try:
        parts = http_url(text)
        if parts.path in ("", "/"):
            return f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be http://host[:port] or https://host[:port], {quoted(text)} was given")


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if (number := whole(port, 65_535)) is None:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT or PORT, {quoted(text)} was given")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise argparse.ArgumentTypeError(f"an IPv6 address goes in brackets: [{host}]:{port}")
    return Address("" if host == "*" else host, number)


def _file(text: str) -> Path:
    path = expanded(text).absolute()
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise argparse.ArgumentTypeError(f"there is no file {text!r}") from None
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error.strerror}") from None
    return path
