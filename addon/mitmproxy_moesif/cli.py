"""Capture API traffic for Moesif. Without a command, print the path of the script for `mitmdump -s`.

mitmdump -s "$(python -m mitmproxy_moesif)" ...
python -m mitmproxy_moesif run [--port 8080] [--page-port 8090] [--upstream URL] [--akto] [-- moesif-proxy options]
python -m mitmproxy_moesif debug [--web-port 8081] ... (the same with mitmweb instead of the proxy)
python -m mitmproxy_moesif proxy ... (the same as moesif-proxy)
python -m mitmproxy_moesif page ... (as moesif-proxy page; so are backfill, collector, doctor, forward and spool)
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mitmproxy_moesif import interrupts
from mitmproxy_moesif.config.arguments import OneLineParser, whole
from mitmproxy_moesif.config.text import quoted
from mitmproxy_moesif.standard_streams import with_streams

PACKAGE = Path(__file__).parent


def main(arguments: Sequence[str]) -> int:
    """Return the exit code: 0, or 1 with one line on stderr."""
    interrupts.end_at_once()
    return with_streams(lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> int:
    if not arguments:
        sys.stdout.write(f"{script_path()}\n")
        return 0
    if arguments[0] == "proxy":
        return _command(arguments[1:])
    if arguments[0] in ("backfill", "collector", "doctor", "forward", "page", "spool"):
        return _command(arguments)
    options = _parse(arguments)
    from mitmproxy_moesif.run import debug, run

    try:
        with interrupts.held(signal.SIGINT):  # from here on there is something to clean up
            return debug(options, script_path()) if options.command == "debug" else run(options)
    except OSError as error:
        sys.stderr.write(f"moesif: {error}\n")
        return 1


def proxy() -> int:
    """`moesif-proxy`."""
    interrupts.end_at_once()
    return with_streams(lambda: _command(sys.argv[1:]))


def _command(arguments: Sequence[str]) -> int:
    """Run a command. Each imports only what it needs, because imports take time."""
    rest = arguments[1:]
    match arguments[:1]:
        case ["backfill"]:
            from mitmproxy_moesif.backfill.main import main as command
        case ["collector"]:
            from mitmproxy_moesif.local.main import main as command
        case ["doctor"]:
            from mitmproxy_moesif.doctor.main import main as command
        case ["forward"]:
            from mitmproxy_moesif.forward.main import main as command
        case ["page"]:
            from mitmproxy_moesif.page.main import main as command
        case _:
            from mitmproxy_moesif.workers.main import main as command

            rest = arguments
    return command(rest)


def script_path() -> Path:
    """The script that `mitmdump -s` loads: inside the package in a wheel, above it in a clone."""
    installed = PACKAGE / "script" / "moesif.py"
    return installed if installed.exists() else PACKAGE.parent / "moesif.py"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m mitmproxy_moesif", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("proxy", help="run the proxy in production: the same as moesif-proxy; see proxy --help")
    commands.add_parser("backfill", help="send saved traffic: the same as moesif-proxy backfill")
    commands.add_parser("collector", help="a collector for any Moesif SDK: the same as moesif-proxy collector")
    commands.add_parser("doctor", help="check what a start would meet: the same as moesif-proxy doctor")
    commands.add_parser("forward", help="deliver events from Kafka: see forward --help")
    commands.add_parser("spool", help="stored events that nobody sends: the same as moesif-proxy spool")
    commands.add_parser("page", help="the traffic page of a running proxy: the same as moesif-proxy page")
    run_command = commands.add_parser(
        "run", help="run the proxy on this machine, with a local collector and an echo upstream where none is given"
    )
    _add_places(run_command)
    run_command.add_argument("more", nargs="*", help="more arguments for moesif-proxy, after --")
    debug_command = commands.add_parser("debug", help="the same with mitmweb in the proxy's place, to look at traffic")
    _add_places(debug_command)
    debug_command.add_argument("--web-port", type=_port, default=8081, help="port of mitmweb (8081)")
    debug_command.add_argument("more", nargs="*", help="more arguments for mitmweb, after --")
    return parser.parse_args(arguments)


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    command.add_argument("--port", type=_port, default=8080, help="port of the proxy (8080)")
    command.add_argument(
        "--page-port", type=_port, default=8090, help="port of the traffic page and of the received events (8090)"
    )
    command.add_argument("--upstream", default="", help="URL to front; default: the embedded echo")
    command.add_argument("--akto", action="store_true", help="send records as for Akto to the collector too")


def _port(text: str) -> int:
    if not (found := whole(text, 65_535)):
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, {quoted(text)} was given")
    return found
