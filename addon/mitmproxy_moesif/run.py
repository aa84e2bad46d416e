"""`make run` and `make debug`: a proxy on this machine, a local collector, an echo upstream, and a page to look at."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from mitmproxy_moesif import interrupts
from mitmproxy_moesif.interrupts import NOTHING_YET, exit_code
from mitmproxy_moesif.local.server import LocalStack, start_in_thread
from mitmproxy_moesif.page import main as page
from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.web.loopback import names_loopback
from mitmproxy_moesif.web.server import bind, free_port, url_of

PORTS = {"port": "PORT", "page": "PAGE_PORT", "web-port": "WEB_PORT"}
"""The Makefile variable for each port, by its name in messages."""


def run(options: argparse.Namespace) -> int:
    """Start the local stack, the proxy and its traffic page; stop all of them on Ctrl-C.

    With an application id in the environment, events go to Moesif. Without the extra `page`, the received events are
    served on the page's port.
    """
    listen = Address(options.host, options.port)
    _need(options, {"port": listen, "page": Address("127.0.0.1", options.page_port)})
    feeds_moesif = bool(os.environ.get("MOESIF_APPLICATION_ID"))
    page_port = 0 if page.is_there() else options.page_port
    with (
        tempfile.TemporaryDirectory(prefix="mitmproxy-moesif-") as folder,
        start_in_thread(page_port, Path(folder) / "events.sqlite") as stack,
    ):
        environment = _environment(options, stack, folder, feeds_moesif=feeds_moesif)
        environment.setdefault("MOESIF_ADMIN_LISTEN", f"127.0.0.1:{free_port()}")
        environment.setdefault("MOESIF_RECENT_RAW", "true")
        with _traffic_page(options, stack, environment) as events_url:
            admin = environment["MOESIF_ADMIN_LISTEN"]
            greet = partial(_greet, options, events_url, stack, feeds_moesif=feeds_moesif, admin=admin)
            return _supervise([*_proxy(options, stack), *options.more], environment, listen, greet)


def debug(options: argparse.Namespace, script: Path) -> int:
    """Run mitmweb with the addon and the local collector, in front of the echo or an upstream, until Ctrl-C."""
    listen = Address(options.host, options.port)
    more = {"web-port": options.web_port, "page": options.page_port}
    _need(options, {"port": listen, **{name: Address("127.0.0.1", port) for name, port in more.items()}})
    feeds_moesif = bool(os.environ.get("MOESIF_APPLICATION_ID"))
    with (
        tempfile.TemporaryDirectory(prefix="mitmproxy-moesif-") as folder,
        start_in_thread(options.page_port, Path(folder) / "events.sqlite") as stack,
    ):
        password = secrets.token_hex(8)
        greet = partial(_greet, options, stack.page_url, stack, feeds_moesif=feeds_moesif)
        environment = _environment(options, stack, folder, feeds_moesif=feeds_moesif)

        def greet_with_web() -> None:
            sys.stdout.write(f"mitmweb:  http://127.0.0.1:{options.web_port}/?token={password} (in a browser)\n")
            greet()

        command = [*_mitmweb(options, stack, folder, script, password), *options.more]
        return _supervise(command, environment, listen, greet_with_web)


def _mitmweb(options: argparse.Namespace, stack: LocalStack, folder: str, script: Path, password: str) -> list[str]:
    """The password is hashed in a file: anyone can read command lines, and mitmweb warns about plain-text passwords."""
    from argon2 import PasswordHasher  # a dependency of mitmproxy; not needed by `run`

    (Path(folder) / "config.yaml").write_text(f"web_password: {PasswordHasher().hash(password)}\n")
    return [
        *(sys.executable, "-c", "from mitmproxy.tools.main import mitmweb; mitmweb()"),
        *("--scripts", str(script), "--mode", f"reverse:{options.upstream or stack.echo_url}"),
        *("--listen-host", options.host, "--listen-port", str(options.port)),
        *("--web-host", "127.0.0.1", "--web-port", str(options.web_port), "--no-web-open-browser"),
        *("--set", f"confdir={folder}", "--set", "termlog_verbosity=warn"),
    ]


def _environment(options: argparse.Namespace, stack: LocalStack, folder: str, *, feeds_moesif: bool) -> dict[str, str]:
    """The environment variables of a proxy that uses the local stack."""
    environment = dict(os.environ)
    if not feeds_moesif:
        environment |= {"MOESIF_APPLICATION_ID": "local", "MOESIF_API_ENDPOINT": stack.collector_url}
        environment.setdefault("MOESIF_SPOOL_DIR", str(Path(folder) / "spool"))
    if options.akto:
        environment.setdefault("AKTO_SERVICE_URL", stack.collector_url)
        environment.setdefault("AKTO_LOG_LEVEL", "info")
    return environment


def _need(options: argparse.Namespace, wanted: Mapping[str, Address]) -> None:
    """Check that the ports are free and distinct. Raises `OSError` with one line."""
    with ExitStack() as probes:
        for name, address in wanted.items():
            try:
                for probe in bind(name, address):
                    probes.enter_context(probe)
            except OSError as error:
                raise OSError(f"{error}; for another one: make {options.command} {PORTS[name]}=...") from None


@contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end of the block, in its own session, so that Ctrl-C does not reach it."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own command line
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _traffic_page(options: argparse.Namespace, stack: LocalStack, environment: Mapping[str, str]) -> Iterator[str]:
    """Serve the traffic page inside the block. Yields the base URL of the received events, which the page shows too."""
    if not page.is_there():
        sys.stdout.write(f"{page.MISSING}\n")
        yield stack.page_url
        return
    address = f"127.0.0.1:{options.page_port}"
    command = [sys.executable, "-m", "mitmproxy_moesif", "page", "--listen", address, "--events", stack.page_url]
    command += ["--admin", f"http://{environment['MOESIF_ADMIN_LISTEN']}"]
    proxy = url_of(options.host, options.port)
    if names_loopback(urlsplit(proxy).netloc):
        command += ["--proxy", proxy]
    with _started(command, environment):
        yield f"http://{address}"


def _proxy(options: argparse.Namespace, stack: LocalStack) -> list[str]:
    return [
        *(sys.executable, "-m", "mitmproxy_moesif", "proxy"),
        *("--upstream", options.upstream or stack.echo_url),
        *("--listen", str(Address(options.host, options.port))),
    ]


def _greet(
    options: argparse.Namespace, events_url: str, stack: LocalStack, *, feeds_moesif: bool, admin: str = ""
) -> None:
    proxy = url_of(options.host, options.port)
    lines = [f"proxy:    {proxy} -> {options.upstream or f'{stack.echo_url} (embedded echo)'}"]
    if options.command == "run" and page.is_there():
        lines.append(f"traffic:  {events_url} (in a browser)")
    if feeds_moesif:
        lines.append(f"events:   go to {os.environ.get('MOESIF_API_ENDPOINT', 'https://api.moesif.net')}")
    else:
        lines.append(f"events:   {events_url}/events?limit=5 (embedded collector, {stack.collector_url})")
    if admin:
        lines.append(f"admin:    http://{admin}/status (also /exchanges, /metrics)")
    if options.akto:
        url = os.environ.get("AKTO_SERVICE_URL", stack.collector_url)
        lines.append(f"akto:     {url}/api/ingestData (what came: curl -s {url}/api/ingestData)")
    lines.append(f"try:      curl -s {proxy}/hello -H 'X-Consumer-Username: ada'")
    if not feeds_moesif:
        lines.append(f"then:     curl -s '{events_url}/events?limit=1'")
    sys.stdout.write("\n".join(lines) + "\nend with Ctrl-C\n")
    sys.stdout.flush()


def _supervise(command: Sequence[str], environment: dict[str, str], listen: Address, greet: Callable[[], None]) -> int:
    """Run the proxy in its own session, so that only this process forwards Ctrl-C to it; the collector outlives it.

    Calls `greet` once the proxy accepts connections.
    """
    process: subprocess.Popen[bytes] | None = None
    asked: list[int] = []

    def end(number: int) -> None:
        asked.append(number)
        if process is not None:
            process.terminate()  # Ctrl-C's own signal can be lost while Python starts

    interrupts.take(end)
    with _started(command, environment) as proxy:
        process = proxy
        if asked:
            process.terminate()
        if started := _listens(process, listen):
            greet()
        code = process.wait()
    if code >= 0:
        return code
    how = f"moesif: the proxy was ended by {signal.Signals(-code).name}" if started else NOTHING_YET
    sys.stderr.write(f"{how}\n")
    return exit_code(asked[0] if asked else -code)


def _listens(process: subprocess.Popen[bytes], listen: Address) -> bool:
    """Wait until the proxy accepts connections. False if the process ended instead."""
    while process.poll() is None:
        with suppress(OSError):
            socket.create_connection((listen.host, listen.port), 1).close()
            return True
        time.sleep(0.05)
    return False
