"""`moesif-proxy forward`: one forwarder in this process, or several as workers."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.receivers.kafka import trouble
from mitmproxy_moesif.forward.arguments import Arguments, parse
from mitmproxy_moesif.forward.forwarder import Forwarder
from mitmproxy_moesif.forward.listener import server
from mitmproxy_moesif.forward.workers import REPORT_SECONDS, Workers
from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy.console import quiet_log

ENDING = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str]) -> int:
    """Until SIGTERM or SIGINT; the exit code. What is wrong with `arguments` ends the process with code 2."""
    parsed = parse(arguments)
    quiet_log()
    try:
        if (reason := trouble(parsed.settings)) is not None:
            raise ValueError(reason)
        runner = _runner(parsed, arguments)
        admin = server(parsed.settings, time.monotonic(), runner.condition) if parsed.reports is None else None
        _heed_signals(runner.stop)
        if admin is not None:
            admin.start()
    except (OSError, ValueError) as error:
        log.error("moesif: %s", error)
        return 1
    if parsed.reports is not None:
        return _run_as_worker(runner, socket.socket(fileno=parsed.reports))
    settings = parsed.settings
    log.info("moesif: forwarding %s of %s", settings.kafka_topic, ", ".join(settings.kafka_brokers))
    last = runner.run()
    if admin is not None:
        admin.stop()
    sys.stderr.write(f"moesif: {last.line()}\n")
    return 0


def _runner(parsed: Arguments, arguments: Sequence[str]) -> Forwarder | Workers:
    forwarder = Forwarder(parsed.settings, parsed.group)  # also where workers run: it checks the settings
    if parsed.workers == 1:
        return forwarder
    return Workers(parsed.workers, [*arguments, "--workers", "1"], parsed.settings.shutdown_timeout / 1000)


def _heed_signals(stop: Callable[[], None]) -> None:
    """In a thread of their own: a handler would run in the midst of whatever the main thread holds."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def heed() -> None:
        while True:
            signal.sigwait(ENDING)
            stop()

    threading.Thread(target=heed, name="moesif-signals", daemon=True).start()


def _run_as_worker(runner: Forwarder | Workers, reports: socket.socket) -> int:
    """Tell the supervisor how it goes; without one there is nothing to go on for."""
    telling = threading.Lock()

    def tell() -> None:
        with telling:
            reports.sendall(protocol.packed((protocol.from_condition(runner.condition()),)))

    def report() -> None:
        try:
            while True:
                tell()
                time.sleep(REPORT_SECONDS)
        except OSError:
            runner.stop()

    threading.Thread(target=report, name="moesif-report", daemon=True).start()
    runner.run()
    with suppress(OSError):
        tell()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
