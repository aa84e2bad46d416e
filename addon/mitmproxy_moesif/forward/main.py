"""`moesif-proxy forward`: one forwarder in this process, or several as workers."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.receivers.kafka import configuration, trouble
from mitmproxy_moesif.forward.arguments import Arguments, parse
from mitmproxy_moesif.forward.forwarder import Forwarder
from mitmproxy_moesif.forward.listener import server
from mitmproxy_moesif.forward.workers import AT_ONCE, REPORT_SECONDS, Workers
from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy.console import quiet_log


class Stop(Protocol):
    def __call__(self, *, at_once: bool) -> None: ...


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM, SIGINT or SIGHUP; returns the exit code. Exits with code 2 if `arguments` are invalid."""
    parsed = parse(arguments)
    quiet_log()
    try:
        if (reason := trouble(parsed.settings)) is not None:
            raise ValueError(reason)
        runner = _runner(parsed, arguments)
        admin = server(parsed.settings, time.monotonic(), runner.condition) if parsed.reports is None else None
        _heed_signals(runner.stop, supervised=parsed.reports is not None)
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
    forwarder = Forwarder(parsed.settings, parsed.group)  # also with workers, to validate the settings
    if parsed.workers == 1:
        return forwarder
    if "group.instance.id" in configuration(parsed.settings):
        raise ValueError(
            "kafka_config: group.instance.id names one member of the group: several workers cannot share it"
        )
    return Workers(parsed.workers, [*arguments, "--workers", "1"], parsed.settings.shutdown_timeout / 1000)


def _heed_signals(stop: Stop, *, supervised: bool) -> None:
    """Handle signals in a separate thread, since a handler would interrupt the main thread at any point.

    The second signal means at once. For a worker only `AT_ONCE` does: a service manager may signal it together with its
    supervisor.
    """
    heeded = {signal.SIGTERM, signal.SIGINT}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored under nohup
        heeded.add(signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, heeded)

    def heed() -> None:
        stopped = False
        while True:
            number = signal.sigwait(heeded)
            stop(at_once=number == AT_ONCE if supervised else stopped)
            stopped = True

    threading.Thread(target=heed, name="moesif-signals", daemon=True).start()


def _run_as_worker(runner: Forwarder | Workers, reports: socket.socket) -> int:
    """Run and report to the supervisor; stop if the supervisor is gone."""
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
