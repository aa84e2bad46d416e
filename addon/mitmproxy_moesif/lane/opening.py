"""The lane of one proxy: decides whether it takes a new connection, and holds what its connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from mitmproxy import ctx, flow
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.tls import TlsData

from mitmproxy_moesif.lane.client import ClientEnd, Place
from mitmproxy_moesif.lane.flows import Identifiers
from mitmproxy_moesif.lane.lent import carry_on
from mitmproxy_moesif.lane.serving import UPSTREAM_TLS, is_fast, why_mode_is_unserved, why_unserved
from mitmproxy_moesif.lane.upstream import Pool
from mitmproxy_moesif.log import RateLimitedLog
from mitmproxy_moesif.speedups import dispatch

LOOK_EVERY = 1.0
"""Seconds between two checks for connections that were idle for mitmproxy's `tcp_timeout`."""

OLD_PATIENCE = 600.0


def patience() -> float:
    """mitmproxy's idle timeout in seconds. Before 12.2 it is not an option."""
    return ctx.options.tcp_timeout if "tcp_timeout" in ctx.options else OLD_PATIENCE


class Lane:
    """An addon, so that it learns of option changes and of the proxy's shutdown.

    `engine` returns `moesif_engine` as in force; `known` are addons that are treated like mitmproxy's own.
    """

    def __init__(self, engine: Callable[[], str], *known: type) -> None:
        self.engine = engine
        self._known = known
        self._limited = RateLimitedLog()
        self._tasks: set[asyncio.Future[Any]] = set()
        self.pool = Pool(self)
        self.identifiers = Identifiers()
        self.connections: set[ClientEnd] = set()
        self.exchanges = self._all_exchanges = 0
        self.unserved: str | None = None
        self.is_over = False
        self._watching: asyncio.Future[None] | None = None

    # An addon's hooks

    def configure(self, updated: Iterable[str]) -> None:
        self.unserved = why_unserved(ctx.master, self._known)
        if not UPSTREAM_TLS.isdisjoint(updated):
            self.pool.renew()

    def requestheaders(self, _flow: flow.Flow) -> None:
        self._all_exchanges += 1

    def tls_established_client(self, data: TlsData) -> None:
        carry_on(self, data)

    def engines(self) -> dict[str, int]:
        """The number of exchanges started, by engine. Thread-safe."""
        fast = self.exchanges
        return {"fast": fast, "mitmproxy": max(0, self._all_exchanges - fast)}

    def running(self) -> None:
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())

    def done(self) -> None:
        self.is_over = True
        if self._watching is not None:
            self._watching.cancel()
        self.pool.close()

    def end(self) -> None:
        """Stop while the proxy keeps running: the connections are handed over to mitmproxy's layers."""
        self.done()
        for end in tuple(self.connections):
            end.go_on()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for end in tuple(self.connections):
                end.look(loop.time(), patience())

    # Connections

    def open(self, place: Place, mode: ProxyMode) -> ClientEnd | None:
        """The protocol for an accepted connection; None if mitmproxy serves it, which includes TLS handshakes."""
        engine = self.engine()
        if not is_fast(engine) or (ctx.options.certs and not place.is_secured):
            return None
        self.unserved = why_unserved(ctx.master, self._known)
        why = self.unserved or why_mode_is_unserved(mode)
        if why is None:
            return ClientEnd(self, place)
        if engine == "fast":  # with `auto`, using mitmproxy's layers is fine
            self._limited.warning(why, "moesif: moesif_engine=fast leaves connections to mitmproxy's layers: %s", why)
        return None

    def opened(self, end: ClientEnd) -> None:
        self.connections.add(end)
        self._of_proxyserver()[end.client.id] = end

    def closed(self, end: ClientEnd) -> None:
        self.connections.discard(end)
        known = self._of_proxyserver()
        if known.get(end.client.id) is end:  # and not the handler that lent it
            del known[end.client.id]

    def _of_proxyserver(self) -> dict[Any, Any]:
        server: Proxyserver = ctx.master.addons.get("proxyserver")
        return server.connections

    # Hooks of other addons

    def run(self, hook: type, data: Any) -> Awaitable[None] | None:
        """Call a hook of all addons. Returns what remains to be awaited, or None."""
        manager = ctx.master.addons
        if isinstance(manager, dispatch.PreparedAddonManager):
            return dispatch.run(manager, hook, [data])
        return manager.handle_lifecycle(hook(data))

    def tell(self, hook: type, data: Any) -> None:
        """Call a hook of all addons without waiting for it to finish."""
        if (rest := self.run(hook, data)) is not None:
            self.keep(rest)

    def keep(
        self,
        awaited: Awaitable[Any],
        then: Callable[[], None] = lambda: None,
        cancelled: Callable[[], None] = lambda: None,
    ) -> None:
        """Run `awaited` as a task, then call `then`, or `cancelled` if an addon or the proxy's end cancelled it."""
        task = asyncio.ensure_future(awaited)
        self._tasks.add(task)

        def ended(done: asyncio.Future[Any]) -> None:
            self._tasks.discard(done)
            (cancelled if done.cancelled() else then)()

        task.add_done_callback(ended)
