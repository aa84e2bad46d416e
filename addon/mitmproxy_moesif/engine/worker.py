"""One proxy in this process, on its own or as a worker of a supervisor.

A worker's standard input is its supervisor's hand: `T` ends it, `A` at once, `H` reloads the configuration; its end
means that the supervisor has gone. What a worker has to say goes back through a pipe, one JSON object a line: `ready`,
`reading` (each second, and last), `reloaded` or `refused`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mitmproxy_moesif.engine.arguments import Address, Arguments, parse
from mitmproxy_moesif.engine.configuration import ConfigurationError
from mitmproxy_moesif.engine.console import quiet_log
from mitmproxy_moesif.engine.master import Proxy
from mitmproxy_moesif.log import log

TELL_EVERY = 1.0
"""Seconds between two readings sent to the supervisor."""


class Alone:
    """Who is told what happens: people, through the log."""

    shared = False

    def start(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def ready(self) -> None:
        options = self._proxy.master.options
        addresses = " and ".join(str(Address(host, port)) for host, port in self._proxy.addresses())
        log.info(
            "moesif-proxy: listening at %s%s, passing to %s",
            addresses,
            " with TLS" if options.certs else "",
            options.mode[0].removeprefix("reverse:"),
        )

    def reloaded(self, what: str) -> None:
        log.info("moesif-proxy: the configuration was read again: %s", what)

    def refused(self, why: str) -> None:
        log.error("moesif-proxy: the configuration was refused, the old one stays: %s", why)

    def ended(self) -> None:
        """The capture's own line has said it."""


class Supervised:
    """Who is told what happens: the supervisor, through a pipe."""

    shared = True

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def start(self, proxy: Proxy) -> None:
        self._proxy = proxy
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._obey)

    def _obey(self) -> None:
        orders = os.read(sys.stdin.fileno(), 64)
        if not orders:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            log.warning("moesif-proxy: the supervisor has gone, worker %d ends", os.getpid())
            self._proxy.stop()
        for order in orders:
            if order == ord("T"):
                self._proxy.stop()
            elif order == ord("A"):
                signal.raise_signal(signal.SIGTERM)
            elif order == ord("H"):
                reload(self._proxy, self)

    def ready(self) -> None:
        self._tell(ready=True)
        self._tell_regularly()

    def _tell_regularly(self) -> None:
        self.ended()
        asyncio.get_running_loop().call_later(TELL_EVERY, self._tell_regularly)

    def reloaded(self, what: str) -> None:
        self._tell(reloaded=what)

    def refused(self, why: str) -> None:
        self._tell(refused=why)

    def ended(self) -> None:
        if (reading := self._proxy.reading()) is not None:
            self._tell(reading=dataclasses.asdict(reading))

    def _tell(self, **what: Any) -> None:
        with suppress(OSError):  # the supervisor has gone, which is told by the other pipe
            os.write(self._pipe, json.dumps(what).encode() + b"\n")


def run(arguments: Arguments, told: Alone | Supervised) -> int:
    """Until it is told to end; the exit code."""
    try:
        asyncio.run(serve(arguments, told))
    except ConfigurationError as error:
        log.error("moesif-proxy: %s", error)
        return 1
    return 0


async def serve(arguments: Arguments, told: Alone | Supervised) -> None:
    proxy = Proxy(arguments, told.ready, shared=told.shared)
    told.start(proxy)
    on_signal(signal.SIGTERM, proxy.stop)
    on_signal(signal.SIGINT, proxy.stop)
    on_signal(signal.SIGHUP, lambda: reload(proxy, told))
    await proxy.run()
    told.ended()


def reload(proxy: Proxy, told: Alone | Supervised) -> None:
    try:
        told.reloaded(proxy.reload())
    except ConfigurationError as error:
        told.refused(str(error))


def on_signal(number: int, act: Callable[[], None]) -> None:
    asyncio.get_running_loop().add_signal_handler(number, act)


def main(arguments: list[str]) -> int:
    """As the supervisor starts it: the number of the pipe, and the arguments of `moesif-proxy`."""
    pipe, *rest = arguments
    quiet_log()
    return run(parse(rest), Supervised(int(pipe)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
