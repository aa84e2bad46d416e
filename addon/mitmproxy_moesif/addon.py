"""Kong's phases as mitmproxy's hooks. Wiring only: decisions are made in other modules.

init_worker: load, running, done; access: requestheaders; header_filter: responseheaders; body_filter: the stream
callables; log: response, error, websocket_end. Every hook is guarded: an error in our code never affects the traffic.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from functools import partial, wraps

from mitmproxy import command, connection, ctx, http, tcp
from mitmproxy.addonmanager import Loader

from mitmproxy_moesif.capture import engine, heads
from mitmproxy_moesif.capture import flow as exchanges
from mitmproxy_moesif.capture.in_flight import PendingExchange
from mitmproxy_moesif.capture.responses import TRANSACTION_ID
from mitmproxy_moesif.capture.tee import Tee
from mitmproxy_moesif.capture.traffic import TrafficStatus
from mitmproxy_moesif.capture.upgrades import KEPT, Messages
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.jwt_gate.addon import JwtGate
from mitmproxy_moesif.lifecycle import KONG_UNKNOWN, OFF, Lifecycle, State
from mitmproxy_moesif.log import describe, log
from mitmproxy_moesif.runtime import Prepared, Runtime

SEEN = "moesif"
"""Set in a flow's metadata once one of our hooks has seen the flow."""

type Hook[Data] = Callable[[MoesifAddon, Data], None]


def guarded[Data](hook: Hook[Data]) -> Hook[Data]:
    """Count and log an error in a hook; the exchange continues as if we were not there."""

    @wraps(hook)
    def guard(self: MoesifAddon, data: Data) -> None:
        try:
            hook(self, data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the traffic must not notice
            self.fault(hook.__name__, error)

    return guard


class MoesifAddon:
    """The addon of one proxy."""

    name = "moesif"

    def __init__(self, life: Lifecycle | None = None) -> None:
        self._life = Lifecycle() if life is None else life
        self._show_bodies = False
        self.addons: tuple[object, ...] = ()
        """Nested addons, loaded by mitmproxy."""

    # --- init_worker ---------------------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        engine.install()
        self._life.load(loader)
        if ctx.master.addons.get("view") is not None:
            from mitmproxy_moesif.interactive.commands import Interactive  # not needed by a headless proxy

            self.addons = (Interactive(self._life),)

    def configure(self, updated: set[str]) -> None:
        self._life.configure(updated)
        self._show_bodies = shows_bodies()

    def running(self) -> None:
        self._life.begin()

    def done(self) -> Awaitable[None] | None:
        return self._life.done()

    # --- access --------------------------------------------------------------------------------------------------

    @guarded
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        entry = self._open(flow)
        if entry is None or entry.passive or not entry.instance.settings.stream:
            return
        if entry.awaits_body:
            exchanges.hold_request(entry, flow, partial(self._release, flow, entry))
        else:
            exchanges.stream_request(entry, flow)

    def _open(self, flow: http.HTTPFlow) -> PendingExchange | None:
        """Register an exchange and evaluate the rules. None if even that is not possible."""
        life = self._life
        flow.metadata[SEEN] = True
        if life.state is not State.RUNNING:
            life.begin()
            if life.cuts:
                if flow.killable:
                    flow.kill()
                return None
        instance, runtime, prepared = life.instance, life.runtime, life.prepared
        if runtime is None or prepared is None:
            return None
        if instance is None:
            return self._leave_out(runtime, flow, prepared.unplaced, KONG_UNKNOWN if prepared.awaits_kong else OFF)
        if (gate := ctx.master.addons.get(JwtGate.name)) is not None:
            gate.requestheaders(flow)  # whatever the addon order: rules and events see what the gate let through
        if heads.refuse_request(flow):
            return self._leave_out(runtime, flow, prepared.unplaced, "refused_head")
        placed = (
            prepared.resolver.resolve(exchanges.routable(flow), instance) if prepared.resolver is not None else None
        )
        if placed is not None:
            instance = placed.instance
        if instance is None:
            return self._leave_out(runtime, flow, prepared.unplaced, "no_instance")
        entry = exchanges.open_exchange(flow, instance)
        if placed is not None:
            entry.kong = placed.kong
        runtime.in_flight.add(entry)
        entry.left_out = unwanted(prepared, flow, instance)
        entry.awaits_body = runtime.enforcer.at_headers(flow, entry, runtime.refresher.snapshot(instance.account))
        return entry

    def _leave_out(self, runtime: Runtime, flow: http.HTTPFlow, instance: Instance, why: str) -> PendingExchange:
        entry = exchanges.leave_out(flow, instance, why)
        runtime.in_flight.add(entry)
        return entry

    def _entry(self, flow: http.HTTPFlow) -> PendingExchange | None:
        """The exchange of a flow, unless it is passive (only counted)."""
        entry = self._under_way(flow)
        return None if entry is None or entry.passive else entry

    def _under_way(self, flow: http.HTTPFlow) -> PendingExchange | None:
        """The exchange of a flow. The first hook that sees a flow opens it."""
        if SEEN not in flow.metadata:
            return self._open_late(flow)
        return self._life.runtime.in_flight.get(flow) if self._life.runtime is not None else None

    def _open_late(self, flow: http.HTTPFlow) -> PendingExchange | None:
        """Open an exchange late: the script was just loaded, or an error in another addon kept us from being called.

        A rule can no longer block a request that was already forwarded or answered, so the flow is killed instead.
        """
        answer, streamed = flow.response, bool(flow.request.stream)
        entry = self._open(flow)
        if entry is not None and entry.awaits_body:
            self._decide_body(entry)
        if flow.response is not answer and (streamed or answer is not None) and flow.killable:
            flow.kill()
        return entry

    def _decide_body(self, entry: PendingExchange) -> None:
        runtime = self._life.runtime
        assert runtime is not None
        entry.awaits_body = False
        runtime.enforcer.at_body(entry.flow, entry, runtime.refresher.snapshot(entry.instance.account))

    def _release(self, flow: http.HTTPFlow, entry: PendingExchange) -> None:
        """The body that rules wait for exceeds their limit: decide without it, and stream it."""
        self.request(flow)
        exchanges.stream_request(entry, flow)

    @guarded
    def request(self, flow: http.HTTPFlow) -> None:
        if (entry := self._entry(flow)) is None:
            return
        heads.drop_ambiguous_trailers(flow.request)
        if entry.awaits_body:
            self._decide_body(entry)
        if self._show_bodies:
            show_body(flow.request, entry.request_tee)

    # --- header_filter -------------------------------------------------------------------------------------------

    @guarded
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if (runtime := self._life.runtime) is not None and (entry := self._entry(flow)) is not None:
            if heads.refuse_answer(flow):
                entry.metadata["error"] = "upstream_failed"
            else:
                runtime.enforcer.at_answer(flow, entry, runtime.refresher.snapshot(entry.instance.account))
            exchanges.open_response(entry, flow, stream=entry.instance.settings.stream)

    @guarded
    def websocket_start(self, flow: http.HTTPFlow) -> None:
        if flow.websocket is not None:
            flow.websocket.messages = Messages(KEPT if self._show_bodies else 0)

    @guarded
    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """A connection upgraded to something other than a WebSocket."""
        flow.messages = Messages(KEPT if self._show_bodies else 0)

    # --- log -----------------------------------------------------------------------------------------------------

    @guarded
    def response(self, flow: http.HTTPFlow) -> None:
        entry = self._under_way(flow)
        if entry is None or (flow.websocket is not None and entry.live):
            return
        self._close(entry, failed=False)
        if flow.response is not None and not entry.passive:
            heads.drop_ambiguous_trailers(flow.response)
            if self._show_bodies:
                show_body(flow.response, entry.response_tee)

    @guarded
    def error(self, flow: http.HTTPFlow) -> None:
        entry = self._under_way(flow)
        instance = self._life.instance if entry is None or entry.passive else entry.instance
        is_refused = entry is not None and entry.refused
        is_kongs = instance is not None and not is_refused and exchanges.is_kongs_to_retry(flow, instance.policy)
        if entry is not None:
            entry.unanswered = is_kongs
            if entry.header is not None:
                flow.metadata[TRANSACTION_ID] = entry.header.decode()
            self._close(entry, failed=True)
        if is_kongs:
            flow.kill()  # closes the connection; called after the event is created, so that it has the reason

    @guarded
    def websocket_end(self, flow: http.HTTPFlow) -> None:
        if (entry := self._under_way(flow)) is not None:
            self._close(entry, failed=False)

    def _close(self, entry: PendingExchange, *, failed: bool) -> None:
        runtime = self._life.runtime
        assert runtime is not None
        runtime.in_flight.pop(entry.flow)
        if self._show_bodies and entry.blocked_by is not None:
            entry.flow.metadata[exchanges.BLOCKED_BY] = entry.blocked_by
        self._life.finish(runtime, entry, failed=failed)

    @guarded
    def client_disconnected(self, client: connection.Client) -> None:
        if (runtime := self._life.runtime) is not None:
            self._life.sweep(runtime, runtime.in_flight.pop_client(client.id), "client_disconnected")

    # --- for people ----------------------------------------------------------------------------------------------

    @command.command("moesif.status")  # type: ignore[untyped-decorator]
    def status(self) -> str:
        """How many captured events were delivered, are waiting or were dropped."""
        reading = self.reading()
        return "\n".join(reading.lines()) if reading is not None else "not running"

    def reading(self) -> Reading | None:
        """The delivery counts, or None before the start. Thread-safe."""
        return self._life.runtime.delivery.reading() if self._life.runtime is not None else None

    def traffic(self) -> TrafficStatus | None:
        """The traffic counts so far, or None before the start."""
        return self._life.runtime.traffic.reading() if self._life.runtime is not None else None

    def engine(self) -> str:
        """The setting `engine`: what serves plain HTTP/1."""
        return self._life.prepared.instance.settings.engine if self._life.prepared is not None else "mitmproxy"

    @command.command("moesif.kong")  # type: ignore[untyped-decorator]
    def kong(self, method: str, host: str, path: str) -> str:
        """Which instance of Kong's configuration applies to such a request, and why."""
        scoping = self._life.prepared.resolver if self._life.prepared is not None else None
        if scoping is None:
            return "no Kong configuration is loaded: the options are one global instance"
        return json.dumps({"loaded": scoping.describe(), "request": scoping.scopes.explain(method, host or None, path)})

    @property
    def prepared(self) -> Prepared | None:
        """The options, read and compiled; None if they are invalid."""
        return self._life.prepared

    def changed_options(self) -> Collection[str]:
        """The options that the Admin API has changed."""
        return self._life.live.names if self._life.live is not None else ()

    def fault(self, kind: str, error: Exception) -> None:
        if self._life.runtime is not None:
            self._life.runtime.fault(kind, error)
        else:
            log.error("moesif: a fault in %s: %s", kind, describe(error))


def unwanted(prepared: Prepared, flow: http.HTTPFlow, instance: Instance) -> str | None:
    """Why an exchange that has an instance gets no event; None if it gets one."""
    if prepared.skip is not None and prepared.skip(flow):
        return "skip"
    if prepared.resolver is not None and not instance.settings.has_receiver:
        return "no_instance"  # Kong's last entry was removed, so this instance is the options
    return None


def shows_bodies() -> bool:
    """Whether flows are shown or saved afterwards: in an interactive tool, mitmdump's output, or a flow file."""
    opts = ctx.options
    written = any(getattr(opts, name, None) for name in ("save_stream_file", "hardump"))
    return written or ctx.master.addons.get("view") is not None or getattr(opts, "flow_detail", 0) > 0


def show_body(message: http.Message, tee: Tee | None) -> None:
    """Set the body of a streamed message that was already forwarded, if all of it was kept."""
    if tee is not None and message.raw_content is None and (content := tee.payload().content()) is not None:
        message.raw_content = content
