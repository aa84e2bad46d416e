"""The proxy that `moesif-proxy` runs: mitmproxy's core, the capture, and only what a reverse proxy needs.

On untested versions of mitmproxy it is mitmproxy's own DumpMaster, with the same options and the capture.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mitmproxy import ctx, exceptions, hooks, options
from mitmproxy.addons import core, disable_h2c, errorcheck, next_layer, proxyserver, script
from mitmproxy.master import Master

from mitmproxy_moesif.addon import MoesifAddon
from mitmproxy_moesif.admin.service import Operations
from mitmproxy_moesif.config.options import PARAMETERS
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.jwt_gate.addon import JwtGate
from mitmproxy_moesif.jwt_gate.options import PARAMETERS as GATE_PARAMETERS
from mitmproxy_moesif.lifecycle import Lifecycle
from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy.accepting import Room, affordable
from mitmproxy_moesif.proxy.access_log import FORMS, AccessLog
from mitmproxy_moesif.proxy.arguments import Arguments
from mitmproxy_moesif.proxy.configuration import Configuration, ConfigurationError, one_line, unknown
from mitmproxy_moesif.proxy.forwarded import Forwarded
from mitmproxy_moesif.runtime import Listening
from mitmproxy_moesif.speedups import switch, versions
from mitmproxy_moesif.speedups.replacing import put_in_place

if TYPE_CHECKING:
    from mitmproxy_moesif.lane.opening import Lane
    from mitmproxy_moesif.proxy.drain import Drain
    from mitmproxy_moesif.proxy.tls import Tls


class StartCheck(errorcheck.ErrorCheck):
    """Ends the process if an error was logged during startup. `ready` is called when everything has started."""

    name = "errorcheck"

    def __init__(self, ready: Callable[[], None]) -> None:
        super().__init__()
        self._ready = ready

    def running(self) -> None:
        for name in ctx.options.deferred:
            if not (PARAMETERS.claims(name) or GATE_PARAMETERS.claims(name)):  # the capture or the gate reports those
                log.error("moesif-proxy: %s", unknown(name, ctx.options.keys()))

    async def shutdown_if_errored(self) -> None:
        if self.logger.has_errored:
            sys.exit(1)

    def finish(self) -> None:
        errorcheck.ErrorCheck.finish(self)
        self._ready()


class Observer(Protocol):
    """Gets notified of what happens in a proxy, from its start to its end.

    `shared`: other processes listen on the same port. `announces`: this proxy logs what is in force.
    """

    shared: bool
    announces: bool

    def start(self, proxy: Proxy, /) -> None:
        """The proxy was created and is about to run on the running event loop."""

    def ready(self) -> None:
        """The proxy listens, and everything has started."""

    def reloaded(self, what: str, /) -> None:
        """The configuration was read again; `what` says what changed, or why it was not read."""

    def refused(self, why: str, /) -> None:
        """The configuration was read again and is invalid; the old one stays."""

    def ended(self) -> None:
        """The proxy has ended."""

    def report(self, reading: Reading, /) -> None:
        """The capture has ended with these final counts."""

    def listen(self, settings: Settings, operations: Operations, /) -> Listening:
        """Create the Admin API's listener. Raises `OSError` and `ValueError` with one line."""


def access_log(wanted: str | None) -> AccessLog | None:
    """The access log that `--access-log` asks for, or None."""
    form = FORMS.get(wanted or ("short" if sys.stdout.isatty() else "off"))
    return AccessLog(form) if form is not None else None


class Proxy:
    """One proxy on the running event loop. Raises `ConfigurationError`."""

    def __init__(self, arguments: Arguments, told: Observer) -> None:
        self.ready = asyncio.Event()
        self._told = told
        check = StartCheck(self._started)
        given = options.Options()
        self.untested = versions.untested()
        self.master: Master
        self.configuration = Configuration(given, arguments)
        self._access_log = access_log(arguments.access_log)
        drained, announces = self.untested is None, told.announces
        life = Lifecycle(told.report, self._listen, drained=drained, announces=announces, observe=self._access_log)
        self.capture = MoesifAddon(life)
        self._gate = JwtGate()
        self._drain: Drain | None = None
        self._lane: Lane | None = None
        self._tls: Tls | None = None
        if self.untested is None:
            self.master = self._core(given, arguments, shared=told.shared)
        else:
            from mitmproxy.tools.dump import DumpMaster  # brings mitmproxy's content views

            log.warning("moesif-proxy: %s: running mitmproxy's own master, which is slower", self.untested)
            self.master = DumpMaster(given, with_termlog=False, with_dumper=False)
            self.master.addons.remove(self.master.addons.get("errorcheck"))
        self.configuration.start()
        self._add_capture(arguments, check)

    def _core(self, given: options.Options, arguments: Arguments, *, shared: bool) -> Master:
        from mitmproxy_moesif.lane.opening import Lane
        from mitmproxy_moesif.proxy import client_hello, heads, http1, http2, listening, tls
        from mitmproxy_moesif.proxy.drain import Drain
        from mitmproxy_moesif.proxy.patience import Patience

        room = Room(arguments.max_connections or affordable())
        self._lane = Lane(self.capture.engine, tls.Tls)
        listening.install(room, self._lane, shared=shared)
        for module in (heads, http1, http2, client_hello, tls):
            put_in_place(module.REPLACEMENTS)
        master = listening.LateMaster(given)
        master.addons.add(core.Core(), proxyserver.Proxyserver(), disable_h2c.DisableH2C())
        self._drain = Drain(arguments.drain_timeout)
        patience = Patience(arguments.header_timeout, arguments.keepalive_timeout, room)
        self._tls = tls.Tls()
        master.addons.add(self._tls, next_layer.NextLayer(), self._drain, patience, self._lane)
        switch.install(master)
        return master

    def _listen(self, settings: Settings, operations: Operations) -> Listening:
        operations.engines = self._lane.engines if self._lane is not None else None
        return self._told.listen(settings, operations)

    def _add_capture(self, arguments: Arguments, check: StartCheck) -> None:
        self._add_configured(self.capture)
        self._add_configured(self._gate)
        if self.untested is None:  # a DumpMaster already has a ScriptLoader, before the capture
            self._add_configured(script.ScriptLoader())
        if arguments.forwarded:
            self.master.addons.add(Forwarded())
        self.master.addons.add(check)

    def _add_configured(self, addon: object) -> None:
        """Add an addon and call its `configure` with the options set so far. mitmproxy does this only for scripts."""
        try:
            self.master.addons.add(addon)
            self.master.addons.invoke_addon_sync(addon, hooks.ConfigureHook(self.master.options.keys()))
        except exceptions.OptionsError as error:
            raise ConfigurationError(one_line(error)) from None

    async def run(self) -> None:
        """Run until `stop`. Raises `SystemExit` if the startup fails."""
        if self._access_log is None:
            await self.master.run()
            return
        self._access_log.start()
        try:
            await self.master.run()
        finally:
            self._access_log.close()

    def _started(self) -> None:
        self.ready.set()
        self._told.ready()

    def stop(self) -> None:
        """Stop gracefully: finish exchanges and deliver events. If called while exchanges drain, stop at once.

        After the drain, the capture handles the signals: another one ends its wait for events.
        """
        if self._drain is not None and self._drain.draining:
            self._drain.aborted.set()
        self.master.shutdown()

    def reload(self) -> str:
        """Read the configuration again. Returns one line that says what changed. Raises `ConfigurationError`."""
        if self.master.should_exit.is_set():
            return "the configuration is not read again: the proxy is about to end"
        in_force = self._tls.in_force if self._tls is not None else None
        try:
            changed = self.configuration.reload(self.capture.changed_options())
        except ConfigurationError:
            if self._tls is not None and in_force is not None:
                self._tls.put_back(in_force)
            raise
        if self.configuration.has_file:
            told = f"the configuration was read again: {', '.join(sorted(changed)) or 'no option'} changed"
        else:
            told = "the files that options name were read again (there is no --config)"
        return told if self._gate.kept is None else f"{told}; the keys stay as they were: {self._gate.kept}"

    def addresses(self) -> list[tuple[str, int]]:
        """The addresses that the proxy listens on."""
        server: proxyserver.Proxyserver = self.master.addons.get("proxyserver")
        return [(str(host), int(port)) for host, port, *_ in server.listen_addrs()]
