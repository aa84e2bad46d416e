"""Run one proxy in this process until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from mitmproxy import optmanager

from mitmproxy_moesif import interrupts
from mitmproxy_moesif.lifecycle import report
from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy import hangups
from mitmproxy_moesif.proxy.arguments import Arguments
from mitmproxy_moesif.proxy.configuration import ConfigurationError
from mitmproxy_moesif.proxy.loops import loop_factory
from mitmproxy_moesif.proxy.master import Observer, Proxy
from mitmproxy_moesif.runtime import listen
from mitmproxy_moesif.web.access import Address


class Standalone:
    """An `Observer` that writes to the log."""

    shared = False
    announces = True
    listen = staticmethod(listen)
    report = staticmethod(report)

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
        log.info("moesif-proxy: %s", what)

    def refused(self, why: str) -> None:
        log.error("moesif-proxy: the configuration was refused, the old one stays: %s", why)

    def ended(self) -> None:
        """Does nothing: the capture has written its exit line."""


def run(arguments: Arguments, told: Observer) -> int:
    """Run a proxy until it is stopped. Returns the exit code."""
    return exit_code(serve(arguments, told), loop_factory(arguments, os.environ))


def list_options(arguments: Arguments) -> int:
    """Write this proxy's options in the format of `mitmdump --options`. Returns the exit code."""

    async def write() -> None:
        upstream = arguments.upstream or "http://localhost"  # any will do: nothing is started
        proxy = Proxy(replace(arguments, upstream=upstream), Standalone())
        optmanager.dump_defaults(proxy.master.options, sys.stdout)

    return exit_code(write())


def exit_code(
    work: Coroutine[Any, Any, None], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> int:
    try:
        asyncio.run(work, loop_factory=loop_factory)
    except ConfigurationError as error:
        log.error("moesif-proxy: %s", error)
        return 1
    return 0


async def serve(arguments: Arguments, told: Observer) -> None:
    proxy = Proxy(arguments, told)
    told.start(proxy)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, proxy.stop)
    heeding = asyncio.ensure_future(heed_hangups(proxy, told))
    try:
        await proxy.run()
    finally:
        heeding.cancel()
        hangups.ignore()
        interrupts.ignore(asyncio.get_running_loop())
    told.ended()


async def heed_hangups(proxy: Proxy, told: Observer) -> None:
    """Handle SIGHUP once everything has started. Before that, invalid options would end the process."""
    await proxy.ready.wait()
    hangups.heed(lambda: reload(proxy, told))


def reload(proxy: Proxy, told: Observer) -> None:
    try:
        told.reloaded(proxy.reload())
    except ConfigurationError as error:
        told.refused(str(error))
