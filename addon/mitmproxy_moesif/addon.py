"""Kong's phases as mitmproxy's hooks. Wiring only: what is decided is decided elsewhere.

init_worker: load, running, done; access: requestheaders; header_filter: responseheaders; body_filter: the stream
callables; log: response, error, websocket_end. Every hook is guarded: a fault of ours never reaches the traffic.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Concatenate

from mitmproxy import command, connection, ctx, http
from mitmproxy import flow as flow_type
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError

from mitmproxy_moesif.capture import flow as exchanges
from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.capture.tee import Tee
from mitmproxy_moesif.config import options, proxy_defaults
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.live import LiveOptions
from mitmproxy_moesif.config.policy import masks_in_force
from mitmproxy_moesif.config.settings import START_ONLY, Settings, SettingsError
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.log import log
from mitmproxy_moesif.runtime import Listen, Prepared, Runtime, listen
from mitmproxy_moesif.speedups import switch

IN_FLIGHT_SHARE = 0.4
"""Of the time to shut down, how long exchanges under way may take to end."""

HANDOVER = "moesif_handover"
"""Where, on mitmproxy's master, the runtime waits for the addon's successor while the script is reloaded."""

type Hook[**P] = Callable[Concatenate[MoesifAddon, P], None]


def guarded[**P](hook: Hook[P]) -> Hook[P]:
    """Count and log a fault in a hook; the exchange goes on as if we were not there."""

    @wraps(hook)
    def guard(self: MoesifAddon, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the traffic must not notice
            self.fault(hook.__name__, error)

    return guard


def report(reading: Reading) -> None:
    """The exit line. Straight to stderr: mitmproxy's own log may be off."""
    sys.stderr.write(f"moesif: {reading.line()}\n")
    sys.stderr.flush()


class MoesifAddon:
    """The addon of one proxy. Its state is made in `running` and handed on when the script is reloaded.

    `report` is told the last counts, `listen` gives access to the Admin API where the options want it. `drained`: at
    the end another addon has waited for exchanges under way already.
    """

    name = "moesif"

    def __init__(
        self, report: Callable[[Reading], None] = report, listen: Listen = listen, *, drained: bool = False
    ) -> None:
        self._report = report
        self._listen = listen
        self._in_flight_share = 0.0 if drained else IN_FLIGHT_SHARE
        self._prepared: Prepared | None = None
        self._runtime: Runtime | None = None
        self._live: LiveOptions | None = None
        self._instance: Instance | None = None
        self._problems: list[str] = []
        self._refused = False
        self._ended = False
        self._show_bodies = False
        self._ending: Ending | None = None

    # --- init_worker ---------------------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        options.prefer_command_line(ctx.options, sys.argv)
        self._problems = list(options.take_unparsable(ctx.options))
        options.register(loader)
        proxy_defaults.set_defaults(ctx.options)
        self._runtime = ctx.master.__dict__.pop(HANDOVER, None)
        if self._runtime is not None:
            self._runtime.take = self._take

    def configure(self, updated: set[str]) -> None:
        if updated and not any(name.startswith(options.OPTION_PREFIX) for name in updated):
            return
        try:
            previous = self._runtime.prepared if self._runtime is not None else self._prepared
            prepared = Prepared.of(options.read_given(ctx.options, os.environ), previous)
        except SettingsError as error:
            self._refuse(*self._problems, str(error))
            return
        if self._runtime is not None and self._prepared is not None:
            if (refusal := unchangeable(self._prepared, prepared)) is not None:
                self._refuse(refusal)
            self._apply(self._runtime, prepared)
        elif self._problems:
            self._refuse(*self._problems)
        self._prepared = prepared

    def _refuse(self, *problems: str) -> None:
        """Live, the change is taken back; at start, an error in the log ends the proxy."""
        if self._runtime is not None:
            raise OptionsError(f"moesif: {'; '.join(problems)}")
        log.error("moesif: %s", "; ".join(problems))
        self._refused = True

    def running(self) -> None:
        prepared = self._prepared
        problems = list(options.unknown_options(ctx.options))
        if prepared is not None and (missing := missing_account(prepared)):
            problems.append(missing)
        if problems:
            self._refuse(*problems)
        if self._refused or prepared is None:
            return
        if self._runtime is None:
            self._start(prepared)
        else:
            self._apply(self._runtime, prepared)

    def _start(self, prepared: Prepared) -> None:
        settings = prepared.instance.settings
        runtime = Runtime(spool_folder(settings), settings.spool_max_bytes, threads=settings.background == "threads")
        runtime.take = self._take
        self._apply(runtime, prepared)
        self._runtime = runtime
        self._live = LiveOptions(ctx.master, options.OPTION_PREFIX)
        try:
            runtime.open_admin(settings, self._live, self._listen)
        except SettingsError as error:
            log.error("moesif: %s", error)
        warn_of_deprecated(settings)
        log.info("moesif: %s", masks_in_force(settings))
        if prepared.resolver is not None and prepared.resolver.has_akto:
            log.info("moesif: akto-api-discovery plugins are read and kept; this release sends nothing to Akto")
        runtime.watch_kong(settings, ctx.master.event_loop, prepared.kong)
        start_when_up(runtime)

    def _take(self, prepared: Prepared) -> None:
        if self._runtime is not None:
            self._apply(self._runtime, prepared)
            self._prepared = prepared

    def _apply(self, runtime: Runtime, prepared: Prepared) -> None:
        runtime.configure(prepared)
        self._instance = prepared.instance if prepared.instance.settings.enabled else None
        self._show_bodies = shows_bodies()
        self._switch_dispatch(prepared.instance.settings)

    def _switch_dispatch(self, settings: Settings) -> None:
        if not settings.fast_dispatch:
            switch.uninstall(ctx.master)
        elif (reason := switch.install(ctx.master)) is not None:
            log.info("moesif: fast dispatch stays off: %s", reason)

    def done(self) -> Awaitable[None] | None:
        """At the end of the proxy: an awaitable that drains. On a reload: everything goes to the successor."""
        if self._runtime is None:
            return None
        if ctx.master.should_exit.is_set():
            return self._shut_down(self._runtime)
        self._hand_over(self._runtime)
        return None

    def _hand_over(self, runtime: Runtime) -> None:
        """A reload loads the successor before the loop runs again; if none came, the script was removed."""
        master = ctx.master
        master.__dict__[HANDOVER] = runtime
        timeout = self._shutdown_seconds()

        def end() -> None:
            runtime.drain(timeout)
            self._report(runtime.close())

        def close_if_unclaimed() -> None:
            if master.__dict__.pop(HANDOVER, None) is not None:
                switch.uninstall(master)
                self._sweep(runtime, runtime.in_flight.pop_all())
                # In a thread of its own: the proxy goes on without us.
                master.event_loop.run_in_executor(None, end)

        master.event_loop.call_soon(close_if_unclaimed)

    async def _shut_down(self, runtime: Runtime) -> None:
        began, seconds = time.monotonic(), self._shutdown_seconds()
        abort = asyncio.Event()

        def end_at_once() -> None:
            abort.set()
            runtime.delivery.abort()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end_at_once)
        if (server := ctx.master.addons.get("proxyserver")) is not None:
            await server.servers.update([])
        runtime.start()  # where the end comes right after the start; what was captured goes its way
        await self._in_flight(runtime, abort, seconds * self._in_flight_share)
        left = seconds - (time.monotonic() - began)
        if not abort.is_set():
            await asyncio.to_thread(runtime.drain, left)
        # From here on the loop does not run, so that no exchange passes unseen.
        # What is still under way keeps its place, so that an answer that comes yet bears its transaction id.
        self._sweep(runtime, runtime.in_flight.entries())
        self._ended = True
        self._report(runtime.close())

    async def _in_flight(self, runtime: Runtime, abort: asyncio.Event, seconds: float) -> None:
        """Give the exchanges that are under way now `seconds` to end; those that do not are finished as they stand."""
        awaited = runtime.in_flight.entries()
        if awaited:
            self._ending = Ending({id(entry) for entry in awaited})
            waits = [asyncio.ensure_future(event.wait()) for event in (self._ending.done, abort)]
            _, unfinished = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for wait in unfinished:
                wait.cancel()
            self._sweep(runtime, [entry for entry in awaited if runtime.in_flight.pop(entry.flow) is not None])

    def _shutdown_seconds(self) -> float:
        return self._prepared.instance.settings.shutdown_timeout / 1000 if self._prepared is not None else 5.0

    # --- access --------------------------------------------------------------------------------------------------

    @guarded
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        instance, runtime, prepared = self._instance, self._runtime, self._prepared
        if instance is None or runtime is None or prepared is None:
            return
        if self._ended:
            # The process is about to end and would cut it anyway: better no exchange than one that nobody saw.
            flow.kill()
            return
        placed = (
            prepared.resolver.resolve(exchanges.routable(flow), instance) if prepared.resolver is not None else None
        )
        if placed is not None:
            instance = placed.instance
        if instance is None:
            return
        entry = exchanges.open_exchange(flow, instance)
        if placed is not None:
            entry.kong = placed.kong
        runtime.in_flight.add(entry)
        entry.skipped = prepared.skip is not None and bool(prepared.skip(flow))
        entry.awaits_body = runtime.enforcer.at_headers(flow, entry, runtime.refresher.snapshot(instance.destination))
        if instance.settings.stream and not entry.awaits_body:
            exchanges.stream_request(entry, flow)

    @guarded
    def request(self, flow: http.HTTPFlow) -> None:
        runtime = self._runtime
        entry = runtime.in_flight.get(flow) if runtime is not None else None
        if entry is None or runtime is None:
            return
        if entry.awaits_body:
            runtime.enforcer.at_body(flow, entry, runtime.refresher.snapshot(entry.instance.destination))
        if self._show_bodies:
            show_body(flow.request, entry.request_tee)

    # --- header_filter -------------------------------------------------------------------------------------------

    @guarded
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if self._runtime is not None and (entry := self._runtime.in_flight.get(flow)) is not None:
            exchanges.open_response(entry, flow, stream=entry.instance.settings.stream)

    # --- log -----------------------------------------------------------------------------------------------------

    @guarded
    def response(self, flow: http.HTTPFlow) -> None:
        runtime = self._runtime
        entry = runtime.in_flight.get(flow) if runtime is not None else None
        if entry is None or runtime is None or (flow.websocket is not None and entry.live):
            return
        runtime.in_flight.pop(flow)
        self._finish(runtime, entry, failed=False)
        if self._show_bodies and flow.response is not None:
            show_body(flow.response, entry.response_tee)

    @guarded
    def error(self, flow: http.HTTPFlow) -> None:
        instance, runtime = self._instance, self._runtime
        if runtime is None:
            return
        entry = runtime.in_flight.pop(flow)
        policy = entry.instance.policy if entry is not None else instance.policy if instance is not None else None
        is_refused = entry is not None and entry.refused
        is_kongs = policy is not None and not is_refused and exchanges.is_kongs_to_retry(flow, policy)
        if entry is not None:
            entry.unanswered = is_kongs
            self._finish(runtime, entry, failed=True)
        if is_kongs:
            flow.kill()  # closes the connection; after the event, which tells why

    @guarded
    def websocket_end(self, flow: http.HTTPFlow) -> None:
        if (runtime := self._runtime) is not None and (entry := runtime.in_flight.pop(flow)) is not None:
            self._finish(runtime, entry, failed=False)

    @guarded
    def client_disconnected(self, client: connection.Client) -> None:
        if (runtime := self._runtime) is not None:
            self._sweep(runtime, runtime.in_flight.pop_client(client.id), "client_disconnected")

    @guarded
    def update(self, flows: Sequence[flow_type.Flow]) -> None:
        """After all addons had their say: a request that another one answered must not be streamed (it would hang)."""
        for flow in flows:
            if isinstance(flow, http.HTTPFlow) and flow.response is not None and type(flow.request.stream) is Tee:
                self._unstream(flow)

    def _unstream(self, flow: http.HTTPFlow) -> None:
        entry = self._runtime.in_flight.get(flow) if self._runtime is not None else None
        if entry is not None and entry.request_tee is not None and not entry.request_tee.size:
            flow.request.stream = False

    def _sweep(self, runtime: Runtime, entries: Iterable[PendingExchange], reason: str = "unfinished") -> None:
        for entry in entries:
            try:
                self._finish(runtime, entry, failed=True, left_over=reason)
            except Exception as error:  # noqa: BLE001 - one strange exchange must not take the others along
                runtime.fault("sweep", error)

    def _finish(self, runtime: Runtime, entry: PendingExchange, *, failed: bool, left_over: str = "unfinished") -> None:
        if self._ended:
            return  # its event was made when the proxy ended
        if entry.skipped:
            runtime.delivery.skip()
        else:
            runtime.delivery.put(entry.instance, exchanges.snapshot(entry, failed=failed, left_over=left_over))
        if self._ending is not None:
            self._ending.finished(entry)

    # --- for people ----------------------------------------------------------------------------------------------

    @command.command("moesif.status")  # type: ignore[untyped-decorator]
    def status(self) -> str:
        """Where every captured event is: delivered, waiting or dropped."""
        reading = self.reading()
        return f"moesif: {reading.line()}" if reading is not None else "not running"

    def reading(self) -> Reading | None:
        """The same as numbers; None before it has started. May be called from any thread."""
        return self._runtime.delivery.reading() if self._runtime is not None else None

    @command.command("moesif.kong")  # type: ignore[untyped-decorator]
    def kong(self, method: str, host: str, path: str) -> str:
        """Which instance of Kong's configuration applies to such a request, and why."""
        scoping = self._prepared.resolver if self._prepared is not None else None
        if scoping is None:
            return "no Kong configuration is loaded: the options are one global instance"
        return json.dumps({"loaded": scoping.describe(), "request": scoping.scopes.explain(method, host or None, path)})

    def changed_options(self) -> Collection[str]:
        """The options that the Admin API has changed."""
        return self._live.names if self._live is not None else ()

    def fault(self, kind: str, error: Exception) -> None:
        if self._runtime is not None:
            self._runtime.fault(kind, error)


class Ending:
    """Exchanges that the end of the proxy waits for, by identity; `done` is set when none is left."""

    def __init__(self, awaited: set[int]) -> None:
        self.done = asyncio.Event()
        self._awaited = awaited

    def finished(self, entry: PendingExchange) -> None:
        self._awaited.discard(id(entry))
        if not self._awaited:
            self.done.set()


def unchangeable(current: Prepared, wanted: Prepared) -> str | None:
    """Why a live change cannot be taken; None where it can."""
    if missing := missing_account(wanted):
        return missing
    for name in sorted(START_ONLY):
        if getattr(wanted.instance.settings, name) != getattr(current.instance.settings, name):
            return f"{name}: can only be set at the start"
    return None


def missing_account(prepared: Prepared) -> str | None:
    """What to do where events have nowhere to go."""
    settings = prepared.instance.settings
    if prepared.resolver is not None and prepared.resolver.has_instances:
        return None  # each of Kong's was checked when it was read
    if settings.application_id.get_secret_value() or settings.sink_file is not None or not settings.enabled:
        return None
    return (
        "application_id is missing: give --set moesif_application_id=..., the environment variable "
        "MOESIF_APPLICATION_ID, or a file with --set moesif_sink_file=PATH"
    )


def spool_folder(settings: Settings) -> Path | None:
    """Where the spool lies; None: in memory only."""
    if settings.spool_dir is not None:
        return None if settings.spool_dir == "off" else Path(settings.spool_dir)
    return Path(ctx.options.confdir).expanduser() / "moesif-spool"


def start_when_up(runtime: Runtime) -> None:
    """Start as soon as the proxy has: until then any error in the log ends it, also one about a damaged spool."""
    check = ctx.master.addons.get("errorcheck")
    if check is not None and check.logger in logging.getLogger().handlers:
        ctx.master.event_loop.call_later(0.01, start_when_up, runtime)
    else:
        runtime.start()


def warn_of_deprecated(settings: Settings) -> None:
    for name, field in Settings.model_fields.items():
        if field.deprecated and name in settings.model_fields_set:
            log.warning("moesif: %s is deprecated: %s", name, field.deprecated)


def shows_bodies() -> bool:
    """Whether somebody looks at flows afterwards: an interactive tool, mitmdump's own lines, or a file of flows."""
    opts = ctx.options
    written = any(getattr(opts, name, None) for name in ("save_stream_file", "hardump"))
    return written or ctx.master.addons.get("view") is not None or getattr(opts, "flow_detail", 0) > 0


def show_body(message: http.Message, tee: Tee | None) -> None:
    """Give a streamed message its body back, as far as it was kept. It has been passed on already."""
    if tee is not None and message.raw_content is None and (content := tee.payload().content()) is not None:
        message.raw_content = content
