"""Capture API traffic for Moesif. Without a command, print the path of the script for `mitmdump -s`.

mitmdump -s "$(python -m mitmproxy_moesif)" ...
python -m mitmproxy_moesif run [--port 8080] [--page-port 8090] [--upstream URL] [-- more moesif-proxy arguments]
python -m mitmproxy_moesif proxy ... (the same as moesif-proxy)
python -m mitmproxy_moesif page ... (the same as moesif-proxy page; so are doctor, forward and spool)
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from mitmproxy_moesif.local.server import LocalSettings, LocalStack, start_in_thread
from mitmproxy_moesif.page import main as page
from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.server import bind, free_port
from mitmproxy_moesif.workers import main as engine

PACKAGE = Path(__file__).parent


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 with one line on stderr."""
    if not arguments:
        sys.stdout.write(f"{script_path()}\n")
        return 0
    if arguments[0] == "proxy":
        return _command(arguments[1:])
    if arguments[0] in ("doctor", "forward", "page", "spool"):
        return _command(arguments)
    options = _parse(arguments)
    try:
        return run(options)
    except OSError as error:
        sys.stderr.write(f"moesif: {error}\n")
        return 1


def proxy() -> int:
    """`moesif-proxy`."""
    return _command(sys.argv[1:])


def _command(arguments: Sequence[str]) -> int:
    """What one of them needs is nothing for the others."""
    if arguments and arguments[0] == "forward":
        from mitmproxy_moesif.forward import main as forward

        return forward.main(arguments[1:])
    if arguments and arguments[0] == "doctor":
        from mitmproxy_moesif.doctor import main as doctor

        return doctor.main(arguments[1:])
    if arguments and arguments[0] == "page":
        return page.main(arguments[1:])
    return engine.main(arguments)


def script_path() -> Path:
    """What `mitmdump -s` loads: in a wheel beside the package's modules, in a clone above the package."""
    installed = PACKAGE / "script" / "moesif.py"
    return installed if installed.exists() else PACKAGE.parent / "moesif.py"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mitmproxy_moesif", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("proxy", help="run the proxy in production: the same as moesif-proxy; see proxy --help")
    commands.add_parser("doctor", help="check what a start would meet: the same as moesif-proxy doctor")
    commands.add_parser("forward", help="deliver events from Kafka: see forward --help")
    commands.add_parser("spool", help="stored events that nobody sends: the same as moesif-proxy spool")
    commands.add_parser("page", help="the traffic page of a running proxy: the same as moesif-proxy page")
    run_command = commands.add_parser(
        "run", help="run the proxy on this machine, with a local collector and an echo upstream where none is given"
    )
    run_command.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    run_command.add_argument("--port", type=_port, default=8080, help="port of the proxy (8080)")
    run_command.add_argument(
        "--page-port", type=_port, default=8090, help="port of the traffic page and of the received events (8090)"
    )
    run_command.add_argument("--upstream", default="", help="URL to front; default: the embedded echo")
    run_command.add_argument("more", nargs="*", help="more arguments for moesif-proxy, after --")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, {text!r} was given")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Start the local stack, the proxy and its traffic page, end all on Ctrl-C.

    An application id in the environment feeds Moesif. Without the extra `page`, the events are served in its place.
    """
    listen = Address(options.host, options.port)
    for probe in bind("port", listen):
        probe.close()  # one that is taken ends the start
    feeds_moesif = bool(os.environ.get("MOESIF_APPLICATION_ID"))
    with tempfile.TemporaryDirectory(prefix="mitmproxy-moesif-") as folder:
        page_port = 0 if page.is_there() else options.page_port
        settings = LocalSettings(page_port=page_port, database=Path(folder) / "events.sqlite")
        with start_in_thread(settings) as stack:
            environment = dict(os.environ)
            if not feeds_moesif:
                environment |= {"MOESIF_APPLICATION_ID": "local", "MOESIF_API_ENDPOINT": stack.collector_url}
                environment.setdefault("MOESIF_SPOOL_DIR", str(Path(folder) / "spool"))
            environment.setdefault("MOESIF_ADMIN_LISTEN", f"127.0.0.1:{free_port()}")
            environment.setdefault("MOESIF_RECENT_RAW", "true")
            with _traffic_page(options, stack, environment) as events_url:
                greet = partial(_greet, options, events_url, stack, feeds_moesif=feeds_moesif)
                return _supervise([*_proxy(options, stack), *options.more], environment, listen, greet)


@contextmanager
def _traffic_page(options: argparse.Namespace, stack: LocalStack, environment: Mapping[str, str]) -> Iterator[str]:
    """The page, until the end of the block; gives the URL of the received events, which are served there too."""
    if not page.is_there():
        sys.stdout.write(f"{page.MISSING}\n")
        yield stack.page_url
        return
    address = f"127.0.0.1:{options.page_port}"
    command = [sys.executable, "-m", "mitmproxy_moesif", "page", "--listen", address, "--events", stack.page_url]
    command += ["--admin", f"http://{environment['MOESIF_ADMIN_LISTEN']}"]
    command += ["--proxy", f"http://127.0.0.1:{options.port}"]
    for probe in bind("page", Address("127.0.0.1", options.page_port)):
        probe.close()  # a port that is taken ends the start
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own command line
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def _proxy(options: argparse.Namespace, stack: LocalStack) -> list[str]:
    return [
        *(sys.executable, "-m", "mitmproxy_moesif", "proxy"),
        *("--upstream", options.upstream or stack.echo_url),
        *("--listen", f"{options.host}:{options.port}"),
    ]


def _greet(options: argparse.Namespace, events_url: str, stack: LocalStack, *, feeds_moesif: bool) -> None:
    lines = [
        f"proxy:    http://{options.host}:{options.port} -> {options.upstream or f'{stack.echo_url} (embedded echo)'}"
    ]
    if page.is_there():
        lines.append(f"traffic:  {events_url} (in a browser)")
    if feeds_moesif:
        lines.append(f"events:   go to {os.environ.get('MOESIF_API_ENDPOINT', 'https://api.moesif.net')}")
    else:
        lines.append(f"events:   {events_url}/events?limit=5 (embedded collector, {stack.collector_url})")
    lines.append(f"try:      curl -s http://{options.host}:{options.port}/hello -H 'X-Consumer-Username: ada'")
    if not feeds_moesif:
        lines.append(f"then:     curl -s '{events_url}/events?limit=1'")
    sys.stdout.write("\n".join(lines) + "\nend with Ctrl-C\n")
    sys.stdout.flush()


def _supervise(command: Sequence[str], environment: dict[str, str], listen: Address, greet: Callable[[], None]) -> int:
    """Run the proxy in a session of its own, so that Ctrl-C reaches it once, from here; the collector outlives it.

    It greets when the first request would be answered.
    """
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own command line

    def forward(number: int, _frame: object) -> None:
        process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    if _listens(process, listen):
        greet()
    return process.wait()


def _listens(process: subprocess.Popen[bytes], listen: Address) -> bool:
    """Waits for it; false where the process has ended instead."""
    while process.poll() is None:
        with suppress(OSError):
            socket.create_connection((listen.host, listen.port), 1).close()
            return True
        time.sleep(0.05)
    return False
