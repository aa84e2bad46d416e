"""The lifecycle of a capture: start, live changes, shutdown, and the handover when the script is reloaded.

Decides what is in force and when; `addon.py` forwards mitmproxy's hooks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError
from mitmproxy.proxy.server import ConnectionHandler

from mitmproxy_moesif import interrupts, start_report
from mitmproxy_moesif.capture import flow as exchanges
from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.capture.responses import Refusal
from mitmproxy_moesif.capture.upstreams import name_of, trouble_of
from mitmproxy_moesif.config import options, proxy_defaults
from mitmproxy_moesif.config.fields import without_effect
from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.live import LiveOptions
from mitmproxy_moesif.config.policy import remark_on_masks
from mitmproxy_moesif.config.settings import DEFAULT_RECENT, START_ONLY, Settings, SettingsError, option_name
from mitmproxy_moesif.config.text import number_of
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.delivery.receivers.ndjson import unwritable
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.log import log
from mitmproxy_moesif.recent.notes import Keep
from mitmproxy_moesif.runtime import Listen, Prepared, Runtime, listen, spool_folder
from mitmproxy_moesif.speedups import switch

IN_FLIGHT_SHARE = 0.4
"""Share of the shutdown timeout that exchanges in flight get to finish."""

TELL_AFTER = 0.5
"""Seconds that a shutdown may take before it logs what it is waiting for."""

HANDOVER = "moesif_handover"
"""The attribute of mitmproxy's master that keeps the runtime for the new addon while the script is reloaded."""

OFF = "off"
"""Reason for not capturing an exchange: the capture is turned off."""

KONG_UNKNOWN = "kong_unknown"
"""Reason for losing an exchange: Kong's configuration, and so what to capture and mask, is not known yet."""
AS_CONFIGURED = frozenset({"skip", "no_instance", OFF})
"""Reasons for not capturing an exchange that the configuration asks for: these are counted as excluded."""

type Observe = Callable[[PendingExchange, Exchange, str], None]
"""Called on the event loop for each exchange that ended, with `captured` or the reason why there is no event."""


class State(Enum):
    """The state of one proxy's capture. After a reload of the script, the new addon starts at LOADING again."""

    LOADING = "reading the options; it starts with the proxy, or with the first exchange"
    REFUSED = "an option is invalid: the log says which, and the proxy ends"
    RUNNING = "exchanges are captured"
    DRAINING = "the proxy is ending: exchanges in progress, and new ones, are captured"
    ENDED = "the last event is made: exchanges that still come are cut"
    HANDED_OVER = "the script was reloaded: the runtime belongs to its successor"


def report(reading: Reading) -> None:
    """Write the exit line directly to stderr, because mitmproxy's own log may be off."""
    sys.stderr.write(f"{reading.last_words()}\n")
    sys.stderr.flush()


class Lifecycle:
    """The lifecycle of one addon. `instance` is the one from the options, or None if they turn the capture off.

    `report` gets the final counts; `listen` creates the Admin API listener if the options ask for one. `drained`:
    another addon has already waited for the exchanges in flight at shutdown. `announces`: log what is in force.
    """

    def __init__(
        self,
        report: Callable[[Reading], None] = report,
        listen: Listen = listen,
        *,
        drained: bool = False,
        announces: bool = True,
        observe: Observe | None = None,
    ) -> None:
        self.state = State.LOADING
        self.prepared: Prepared | None = None
        self.runtime: Runtime | None = None
        self.live: LiveOptions | None = None
        self.instance: Instance | None = None
        self._report = report
        self._listen = listen
        self._announces = announces
        self._observe = observe
        self._in_flight_share = 0.0 if drained else IN_FLIGHT_SHARE
        self._problems: list[str] = []
        self._ending: Ending | None = None
        self._said: str | None = None
        self._overrides: list[str] = []
        self._masks: str | None = None
        self._nowhere: str | None = None
        self._odd_masks: str | None = None
        self._ahead: tuple[Prepared | None, Prepared | None] = None, None

    # --- start and live changes ----------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        options.PARAMETERS.prefer_command_line(ctx.options, sys.argv)
        self._problems = list(options.PARAMETERS.take_unparsable(ctx.options))
        options.PARAMETERS.register(loader)
        proxy_defaults.set_defaults(ctx.options)
        proxy_defaults.quote_no_heads()
        self.runtime = ctx.master.__dict__.pop(HANDOVER, None)
        if self.runtime is not None:
            self.runtime.take = self._take

    def configure(self, updated: set[str]) -> None:
        if updated and not any(name.startswith(options.FAMILIES) for name in updated):
            return
        try:
            prepared = self._prepared_now()
        except SettingsError as error:
            self._refuse(*self._problems, str(error))
            return
        if self.runtime is not None and self.prepared is not None:
            if (refusal := unchangeable(self.prepared, prepared)) is not None:
                self._refuse(refusal)
            self._apply(self.runtime, prepared)
        elif self._problems:
            self._refuse(*self._problems)
        self.prepared = prepared

    def prepare(self, changes: Mapping[str, Any]) -> None:
        """Read and parse what `configure` will put in force after `changes`, on the thread that requests them."""
        previous = self._previous()
        given = options.read_given(ctx.options, os.environ, changes)
        self._ahead = previous, Prepared.of(given, previous, confdir())

    def _prepared_now(self) -> Prepared:
        """What `prepare` made, unless something else has changed since. Raises `SettingsError`."""
        previous, given = self._previous(), options.read_given(ctx.options, os.environ)
        (base, ahead), self._ahead = self._ahead, (None, None)
        if ahead is not None and base is previous and ahead.given == given:
            return ahead
        return Prepared.of(given, previous, confdir())

    def _previous(self) -> Prepared | None:
        return self.runtime.prepared if self.runtime is not None else self.prepared

    def _refuse(self, *problems: str) -> None:
        """Reject a live change (mitmproxy rolls it back). At startup, log an error, which ends the proxy."""
        if self.runtime is not None:
            raise OptionsError(f"moesif: {'; '.join(problems)}")
        log.error("moesif: %s", "; ".join(problems))
        self.state = State.REFUSED

    def begin(self) -> None:
        """Start at mitmproxy's `running` hook, or at an earlier exchange. A second call does nothing."""
        prepared = self.prepared
        if self.state is not State.LOADING or prepared is None:
            return
        problems = [*options.PARAMETERS.unknown_options(ctx.options), *obstacles(prepared)]
        if problems:
            self._refuse(*problems)
            return
        self.state = State.RUNNING
        if self.runtime is None:
            self._start(prepared)
        else:
            self._apply(self.runtime, prepared)

    @property
    def cuts(self) -> bool:
        """Whether to kill new exchanges: the process is about to end, and they would not be captured."""
        return self.state is State.ENDED or (self.state is State.REFUSED and is_starting())

    def _start(self, prepared: Prepared) -> None:
        settings = prepared.instance.settings
        folder = spool_folder(settings, confdir())
        watched = settings.recent is None and ctx.master.addons.get("view") is not None
        keep = Keep(DEFAULT_RECENT if watched else settings.kept_exchanges, settings.recent_raw)
        threads = settings.background == "threads"
        runtime = Runtime(folder, settings.spool_max_bytes, threads=threads, keep=keep, announces=self._announces)
        runtime.take = self._take
        warn_of_open(folder)
        self._apply(runtime, prepared)
        self.runtime = runtime
        self.live = LiveOptions(ctx.master, option_name, self.prepare)
        try:
            runtime.prepare_admin(settings, self.live, self._listen)
            runtime.watch_kong(settings, ctx.master.event_loop, prepared.kong)
            runtime.open_admin()
        except SettingsError as error:
            self.runtime = self.instance = None
            runtime.close()
            self._refuse(str(error))
            return
        for remark in remarks(settings):
            log.warning("moesif: %s", remark)
        start_when_up(runtime, self._tell_start)

    def _tell_start(self) -> None:
        prepared = self.prepared
        if self._announces and prepared is not None:
            start_report.tell(prepared, ctx.options.mode, spool_folder(prepared.instance.settings, confdir()))

    def _take(self, prepared: Prepared) -> None:
        if self.runtime is not None:
            self._apply(self.runtime, prepared)
            self.prepared = prepared

    def _apply(self, runtime: Runtime, prepared: Prepared) -> None:
        runtime.configure(prepared)
        settings = prepared.instance.settings
        if prepared.awaits_kong or any(instance.masks for instance in prepared.instances):
            self._hide_flows()
        self._tell_overrides(prepared)
        self._tell_masks(prepared)
        self._tell_odd_masks(prepared)
        self._tell_nowhere(prepared)
        self.instance = prepared.instance if settings.enabled and not prepared.awaits_kong else None
        if not settings.fast_dispatch:
            switch.uninstall(ctx.master)
        elif (reason := switch.install(ctx.master)) is not None:
            log.info("moesif: fast dispatch stays off: %s", reason)

    def _tell_overrides(self, prepared: Prepared) -> None:
        """Log the overrides when a live change alters them; at startup, the start report shows them."""
        before, self._overrides = self._overrides, start_report.overrides(prepared)
        if self.runtime is not None and self._announces and self._overrides != before:
            log.info("moesif: overrides: %s", start_report.overriding(self._overrides))

    def _tell_masks(self, prepared: Prepared) -> None:
        """Log the masks when they change, for example because an entry of Kong's was removed."""
        before, self._masks = self._masks, start_report.masks(prepared)
        if self._announces and before not in (None, self._masks):
            log.info("moesif: masks: %s", self._masks)

    def _tell_nowhere(self, prepared: Prepared) -> None:
        """Warn when Kong's last entry is removed. (Startup, and a change of the options, fail in that case.)"""
        before, self._nowhere = self._nowhere, missing_account(prepared)
        if self._nowhere is not None and self._announces and self._nowhere != before:
            log.warning("moesif: nothing is captured: %s", self._nowhere)

    def _tell_odd_masks(self, prepared: Prepared) -> None:
        before, self._odd_masks = self._odd_masks, odd_masks(prepared)
        if self._odd_masks is not None and self._announces and self._odd_masks != before:
            log.warning("moesif: %s", self._odd_masks)

    def _hide_flows(self) -> None:
        said = proxy_defaults.hide_flows(ctx.options)
        if said is not None and said != self._said:
            self._said = said
            log.warning("moesif: %s", said)

    # --- the end -------------------------------------------------------------------------------------------------

    def done(self) -> Awaitable[None] | None:
        """At the end of the proxy, return an awaitable that drains. On a reload, hand everything to the new addon."""
        if self.runtime is None:
            return None
        if ctx.master.should_exit.is_set():
            self.state = State.DRAINING
            return self._shut_down(self.runtime)
        self.state = State.HANDED_OVER
        self._hand_over(self.runtime)
        return None

    def _hand_over(self, runtime: Runtime) -> None:
        """A reload loads the new addon before the event loop runs again. If there is none, the script was removed."""
        master = ctx.master
        master.__dict__[HANDOVER] = runtime
        timeout = self._shutdown_seconds()

        def end() -> None:
            runtime.drain(timeout)
            self._report(runtime.close())

        def close_if_unclaimed() -> None:
            if master.__dict__.pop(HANDOVER, None) is not None:
                switch.uninstall(master)
                self.sweep(runtime, runtime.in_flight.pop_all())
                if runtime.delivery.reading().waiting:
                    runtime.start()  # startup failed or has not finished: deliver what was captured
                # On another thread: the proxy keeps running without us.
                master.event_loop.run_in_executor(None, end)

        master.event_loop.call_soon(close_if_unclaimed)

    async def _shut_down(self, runtime: Runtime) -> None:
        began, seconds = time.monotonic(), self._shutdown_seconds()
        abort = asyncio.Event()

        def end_at_once() -> None:
            if not abort.is_set():
                log.info("moesif: ending at once, as requested")
            abort.set()
            runtime.delivery.abort()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end_at_once)
        interrupts.quiet_wakeups()
        if (server := ctx.master.addons.get("proxyserver")) is not None:
            await server.servers.update([])
        runtime.start()  # shutdown came right after startup: deliver what was captured
        await self._in_flight(runtime, abort, seconds * self._in_flight_share)
        left = seconds - (time.monotonic() - began)
        if not abort.is_set():
            when = until(left)
            with telling_unless_soon(lambda: tell_events(runtime, when)):
                await asyncio.to_thread(runtime.drain, left)
        # From here on the event loop does not run, so no exchange can pass uncaptured.
        # Exchanges still in flight stay registered, so that a late response still gets its transaction id.
        self._cut(runtime, runtime.in_flight.entries())
        self.state = State.ENDED
        self._report(runtime.close())

    async def _in_flight(self, runtime: Runtime, abort: asyncio.Event, seconds: float) -> None:
        """Give the exchanges now in flight `seconds` to end. Those that do not are finished as they are."""
        awaited = runtime.in_flight.entries()
        if awaited:
            when, self._ending = until(seconds), Ending({id(entry) for entry in awaited})
            waits = [asyncio.ensure_future(event.wait()) for event in (self._ending.done, abort)]
            with telling_unless_soon(lambda: tell_requests(len(runtime.in_flight.entries()), when)):
                _, unfinished = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for wait in unfinished:
                wait.cancel()
            self._cut(runtime, [entry for entry in awaited if runtime.in_flight.pop(entry.flow) is not None])

    def _cut(self, runtime: Runtime, entries: Sequence[PendingExchange]) -> None:
        """Finish exchanges as they are and disconnect their clients, so that the events stay true."""
        self.sweep(runtime, entries)
        hang_up({entry.flow.client_conn.id for entry in entries if entry.live})

    def _shutdown_seconds(self) -> float:
        return self.prepared.instance.settings.shutdown_timeout / 1000 if self.prepared is not None else 5.0

    # --- the end of an exchange ----------------------------------------------------------------------------------

    def finish(self, runtime: Runtime, entry: PendingExchange, *, failed: bool, left_over: str = "unfinished") -> None:
        """Hand an exchange that has ended to delivery."""
        if self.state is State.ENDED:
            return  # its event was created during shutdown
        end = exchanges.end_of(entry, failed=failed, left_over=left_over)
        if entry.left_out is None:
            exchange = exchanges.snapshot(entry, end)
            fate = runtime.delivery.put(entry.instance, exchange) or "captured"
            if self._observe is not None:
                self._observe(entry, exchange, fate)
        else:
            self._leave_out(runtime, entry, entry.left_out, end)
        if entry.live:
            count(runtime, entry, end)
        if self._ending is not None:
            self._ending.finished(entry)

    def _leave_out(self, runtime: Runtime, entry: PendingExchange, why: str, end: exchanges.End) -> None:
        if why in AS_CONFIGURED:
            runtime.delivery.exclude()
        elif why == KONG_UNKNOWN:
            runtime.delivery.miss()
        if why != OFF and (runtime.delivery.keeps_recent or entry.instance.settings.debug):
            runtime.delivery.note(exchanges.note(entry, end, why))
        if self._observe is not None:
            self._observe(entry, exchanges.snapshot(entry, end), why)

    def sweep(self, runtime: Runtime, entries: Iterable[PendingExchange], reason: str = "unfinished") -> None:
        """Finish exchanges whose end no hook has reported."""
        for entry in entries:
            try:
                self.finish(runtime, entry, failed=True, left_over=reason)
            except Exception as error:  # noqa: BLE001 - one bad exchange must not lose the others
                runtime.fault("sweep", error)


def count(runtime: Runtime, entry: PendingExchange, end: exchanges.End) -> None:
    """Count an exchange, and record whether its upstream failed or answered."""
    flow, instance = entry.flow, entry.instance
    blocked = entry.blocked_by is not None
    runtime.traffic.count(instance.name, end.status, end.at - flow.request.timestamp_start, blocked=blocked)
    if entry.metadata.get("error") == "upstream_failed":
        trouble = trouble_of(flow)
        runtime.traffic.failed(trouble)
        runtime.upstreams.failed(name_of(flow), trouble)
    elif runtime.upstreams.failing and end.cause is None and not isinstance(flow.response, Refusal):
        runtime.upstreams.answered(name_of(flow))


class Ending:
    """The exchanges that shutdown waits for, by `id()`; `done` is set when none is left."""

    def __init__(self, awaited: set[int]) -> None:
        self.done = asyncio.Event()
        self._awaited = awaited

    def finished(self, entry: PendingExchange) -> None:
        self._awaited.discard(id(entry))
        if not self._awaited:
            self.done.set()


def hang_up(clients: Collection[str]) -> None:
    """Close these clients' connections at once. mitmproxy itself might still send an answer of its own."""
    server = ctx.master.addons.get("proxyserver")
    for handler in list(server.connections.values()) if server is not None else ():
        if handler.client.id in clients and (transport := client_transport(handler)) is not None:
            transport.abort()


def client_transport(handler: ConnectionHandler) -> asyncio.WriteTransport | None:
    """The transport of a client connection served by mitmproxy's layers. None if it is closed or not TCP."""
    end = handler.transports.get(handler.client)
    return getattr(end.writer, "transport", None) if end is not None else None


@contextmanager
def telling_unless_soon(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` if the block takes longer than `TELL_AFTER` seconds."""
    telling = asyncio.get_running_loop().call_later(TELL_AFTER, tell)
    try:
        yield
    finally:
        telling.cancel()


def until(seconds: float) -> str:
    """The local time in so many seconds, as HH:MM:SS."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


def tell_requests(count: int, when: str) -> None:
    log.info("moesif: ending: waiting for %s in progress, until %s; Ctrl-C: at once", number_of(count, "request"), when)


def tell_events(runtime: Runtime, when: str) -> None:
    if waiting := runtime.delivery.reading().waiting:
        log.info("moesif: ending: %s to deliver, until %s; Ctrl-C: at once", number_of(waiting, "event"), when)


def unchangeable(current: Prepared, wanted: Prepared) -> str | None:
    """Why a live change must be rejected, or None if it is fine."""
    if missing := missing_account(wanted):
        return missing
    for name in sorted(START_ONLY):
        if getattr(wanted.instance.settings, name) != getattr(current.instance.settings, name):
            return f"{name}: can only be set at the start"
    return None


def obstacles(prepared: Prepared) -> list[str]:
    """The reasons why the proxy cannot start with this configuration."""
    nowhere = missing_account(prepared) or kafka_trouble(prepared)
    return [*filter(None, [nowhere]), *unwritable_files(prepared)]


def unwritable_files(prepared: Prepared) -> list[str]:
    """Problems with the files that events are written to. Checked at startup; later problems are logged."""
    files = {instance.settings.sink_file for instance in prepared.instances}
    return [f"sink_file: {why}" for path in files if path is not None and (why := unwritable(path)) is not None]


def missing_account(prepared: Prepared) -> str | None:
    """What the user should do if events have nowhere to go, else None."""
    settings = prepared.instance.settings
    resolver = prepared.resolver
    if prepared.awaits_kong or (resolver is not None and (resolver.has_instances or resolver.has_akto)):
        return None  # each of Kong's entries is checked when it is read
    if settings.has_receiver or not settings.enabled:
        return None
    where = settings.kong_config or settings.kong_admin_url
    return (f"{where} has no enabled moesif entry, and " if where is not None else "") + (
        "application_id is missing: give --set moesif_application_id=..., the environment variable "
        "MOESIF_APPLICATION_ID, or a file with --set moesif_sink_file=PATH"
    )


def kafka_trouble(prepared: Prepared) -> str | None:
    """What is wrong with the settings of a Kafka receiver. Does not check whether its brokers can be reached."""
    for instance in prepared.instances:
        if instance.settings.kafka_brokers:
            from mitmproxy_moesif.delivery.receivers.kafka import trouble

            if (reason := trouble(instance.settings)) is not None:
                return reason
        if instance.akto is not None and instance.akto.brokers:
            from mitmproxy_moesif.delivery.receivers.akto_kafka import akto_trouble

            if (reason := akto_trouble(instance.akto)) is not None:
                return reason
    return None


def confdir() -> Path:
    return expanded(ctx.options.confdir)


def is_starting() -> bool:
    """Whether mitmproxy is still starting, so that a logged error ends it."""
    check = ctx.master.addons.get("errorcheck")
    return check is not None and check.logger in logging.getLogger().handlers


def start_when_up(runtime: Runtime, told: Callable[[], None]) -> None:
    """Start once the proxy is up. Until then any logged error ends it, even one about a damaged spool."""
    if is_starting():
        ctx.master.event_loop.call_later(0.01, start_when_up, runtime, told)
    else:
        told()
        runtime.delay.start(ctx.master.event_loop)
        runtime.start()


def warn_of_open(folder: Path | None) -> None:
    """Warn about a spool folder open to others. They cannot read events, but could delete them or add their own."""
    with suppress(OSError):
        if folder is not None and folder.is_dir() and (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
            log.warning("moesif: others can access the spool folder (mode %o): chmod 700 %s", mode, folder)


def odd_masks(prepared: Prepared) -> str | None:
    return remark_on_masks(instance.settings for instance in prepared.instances or [prepared.instance])


def remarks(settings: Settings) -> Iterator[str]:
    """Warnings about settings that are deprecated or have no effect."""
    for name, field in Settings.model_fields.items():
        if field.deprecated and name in settings.model_fields_set:
            yield f"{name} is deprecated: {field.deprecated}"
    if (idle := without_effect(settings)) is not None:
        yield idle
    if settings.kong_config is not None and settings.kong_admin_url is not None:
        yield "no effect beside kong_config: kong_admin_url"
