"""The running proxy as its operators see it: status, health, and the options as Kong's plugin entities."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mitmproxy_moesif import __version__
from mitmproxy_moesif.admin.kong_plugins import KongPluginSource
from mitmproxy_moesif.admin.local_plugins import LocalPluginSource
from mitmproxy_moesif.admin.source import (
    Destination,
    NotFound,
    NotKept,
    SchemaViolation,
    SpoolStatus,
    Status,
    UniqueViolation,
    UnsentStatus,
    receivers_of,
)
from mitmproxy_moesif.admin.state import Document, Keeper, StateError, StateFile
from mitmproxy_moesif.capture.traffic import TrafficStatus
from mitmproxy_moesif.config.settings import Settings, option_name
from mitmproxy_moesif.governance.refresh import REFRESH, Refusal
from mitmproxy_moesif.kong.errors import OPTIONS_ID, PLUGIN_NAME
from mitmproxy_moesif.kong.overlay import REFERENCES, LiveOverlay
from mitmproxy_moesif.kong.scopes import AKTO
from mitmproxy_moesif.log import log

if TYPE_CHECKING:
    from mitmproxy_moesif.config.live import LiveOptions
    from mitmproxy_moesif.delivery.api import Condition, SpoolCondition, Unsent
    from mitmproxy_moesif.delivery.client import DeliveryClient
    from mitmproxy_moesif.delivery.sender import Health
    from mitmproxy_moesif.kong.entities import Entity
    from mitmproxy_moesif.kong.resolver import Resolver

UNHEALTHY_AFTER = 300.0
"""Seconds that an event may wait before health reports it; Moesif counts later events as late."""


class Operations:
    """The admin listener's source. Called from its thread.

    All changes are one document. A change is validated, applied and then saved; if it cannot be saved, it is undone.
    """

    def __init__(
        self,
        delivery: DeliveryClient,
        read: Callable[[], Settings],
        change: LiveOptions,
        resolver: Callable[[], Resolver | None],
        given: Callable[[], Mapping[str, Any]],
        traffic: Callable[[], TrafficStatus],
        refused: Callable[[], Mapping[str, Refusal]] = dict,
        accepted: Callable[[], Collection[str]] = tuple,
        lossy: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._delivery = delivery
        self._resolver = resolver
        self._given = given
        self._traffic = traffic
        self._refused = refused
        self._accepted = accepted
        self._lossy = lossy
        self._began = time.monotonic()
        self._read = read
        self._local = LocalPluginSource(read, change)
        self._kong: KongPluginSource | None = None
        self._keeper: Keeper = StateFile(None)
        self.engines: Callable[[], Mapping[str, int]] | None = None
        self._kept: Document = {}
        self._changing = threading.Lock()

    def restore(self, keeper: Keeper) -> None:
        """Apply the saved changes, and save changes from now on. Raises `StateError` with one line."""
        self._keeper, self._kept = keeper, keeper.read()
        with self._refusals():
            self._local.take(self._kept)

    def follow(self, live: LiveOverlay) -> None:
        """Show and change these instances too from now on, and apply the saved changes to them.

        Raises `StateError` with one line.
        """
        kong = KongPluginSource(live, self._given)
        with self._refusals():
            kong.take(self._kept)
        self._kong = kong

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (SchemaViolation, UniqueViolation) as error:
            raise StateError(f"admin_state: {self._read().admin_state}: {error}") from None

    def document(self) -> Document:
        """All changes, secrets included."""
        return {**self._kept, **self._local.document(), **(self._kong.document() if self._kong is not None else {})}

    def take(self, document: Document) -> None:
        """Replace all changes by those of a document. Raises `SchemaViolation`, `UniqueViolation`."""
        with self._changing:
            self._take(document)

    def _take(self, document: Document) -> None:
        self._local.take(document)
        if self._kong is not None:
            self._kong.take(document)
        self._kept = document

    @contextmanager
    def _change(self, what: str, given: Mapping[str, Any]) -> Iterator[None]:
        """Save what the block applied, or undo it. Logs the names of what was given. Raises `NotKept`."""
        with self._changing:
            yield
            document = self.document()
            try:
                self._keeper.write(document)
            except NotKept:
                self._take(self._kept)
                raise
            if document != self._kept:
                log.info("moesif: changed through the Admin API: %s: %s", what, ", ".join(names_of(given)) or "removed")
            self._kept = document

    def _condition(self) -> Condition:
        """The state of delivery; each receiver's health also considers requests without events."""
        condition, refusals = self._delivery.condition(), self._refused()
        health = {name: seen_last(one, refusals.get(name)) for name, one in condition.health.items()}
        return replace(condition, health=health)

    def status(self) -> Status:
        condition = self._condition()
        status = status_of(condition, self._began)
        for name in self._accepted():
            if name in status["destinations"]:
                status["destinations"][name]["account"] = "accepted"
        status["receivers"] = receivers_of(condition.reading, self._lossy())
        status["traffic"] = self._traffic()
        if self.engines is not None:
            status["engines"] = self.engines()
        if (resolver := self._resolver()) is not None:
            from mitmproxy_moesif.kong.resolver import overridden

            names = overridden(resolver.scopes.config, self._given())
            status["kong"] = {**resolver.describe(), "overrides": [option_name(name) for name in names]}
        return status

    def trouble(self) -> str | None:
        return trouble_of(self._condition())

    def recent(self, query: Mapping[str, Any]) -> Future[bytes | None]:
        return self._delivery.recent(query)

    def plugins(self) -> Sequence[Mapping[str, Any]]:
        """All instances; the options come first."""
        return [*self._local.plugins(), *(self._kong.plugins() if self._kong is not None else ())]

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._change(self._name_of(plugin_id), changes):
            return self._source_of(plugin_id).patch_plugin(plugin_id, changes)

    def replace_plugin(self, plugin_id: str, given: Mapping[str, Any], kept: Collection[str]) -> Mapping[str, Any]:
        with self._change(self._name_of(plugin_id), given):
            return self._source_of(plugin_id).replace_plugin(plugin_id, given, kept)

    def add_plugin(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add an instance. A global one of Moesif is only possible if the options are not an instance themselves."""
        resolver = self._resolver()
        scoped = given.get("name") == AKTO or any(given.get(name) for name in REFERENCES)
        with self._change("a new plugin", given):
            if self._kong is not None and (scoped or (resolver is not None and resolver.has_instances)):
                return self._kong.add_plugin(given)
            return self._local.add_plugin(given)

    def remove_plugin(self, plugin_id: str) -> None:
        with self._change(self._name_of(plugin_id), {}):
            self._source_of(plugin_id).remove_plugin(plugin_id)

    def list_entities(self, kind: str) -> Sequence[Entity]:
        return self._kong.list_entities(kind) if self._kong is not None else ()

    def find_entity(self, kind: str, name: str) -> str:
        if self._kong is None:
            raise NotFound(name)
        return self._kong.find_entity(kind, name)

    def _name_of(self, plugin_id: str) -> str:
        """The plugin's name for the log; without a name, its scope and id."""
        names = [plugin["instance_name"] for plugin in self.plugins() if plugin["id"] == plugin_id]
        if plugin_id == OPTIONS_ID or (resolver := self._resolver()) is None:
            return "the options"
        unnamed = [plugin for plugin in resolver.scopes.config.plugins if plugin.id == plugin_id]
        called = [f"{resolver.scopes.scope(plugin)} ({plugin_id})" for plugin in unnamed]
        return next(filter(None, [*names, *called]), plugin_id)

    def _source_of(self, plugin_id: str) -> LocalPluginSource | KongPluginSource:
        return self._local if self._kong is None or plugin_id == OPTIONS_ID else self._kong

    def explain(self, method: str, host: str | None, path: str) -> Mapping[str, Any]:
        resolver = self._resolver()
        if resolver is None:
            enabled = self._read().enabled
            why = "the options are one global instance" if enabled else "enabled is false: nothing is captured"
            return {"instance": {"id": OPTIONS_ID, "instance_name": PLUGIN_NAME} if enabled else None, "why": why}
        explained = resolver.scopes.explain(method, host, path)
        if resolver.has_akto:
            akto = resolver.scopes.explain(method, host, path, name=AKTO)
            explained["akto"] = {name: akto[name] for name in ("instance", "why")}
        return explained


def names_of(given: Mapping[str, Any]) -> list[str]:
    """The names of the fields given, without values, which may be secret."""
    config = given.get("config")
    return sorted({*given, *(config if isinstance(config, Mapping) else ())} - {"config"})


def status_of(condition: Condition, began: float) -> Status:
    """The status from the state of delivery. `began`: the start in monotonic seconds."""
    reading = condition.reading
    return Status(
        version=__version__,
        uptime=round(time.monotonic() - began, 3),
        captured=reading.captured,
        recovered=reading.recovered,
        delivered=reading.delivered,
        waiting={"memory": reading.waiting_in_memory, "disk": reading.waiting_on_disk},
        dropped=reading.dropped,
        excluded=reading.excluded,
        faults=reading.faults,
        oldest_waiting=round(age_of(condition), 3) if condition.oldest_at is not None else None,
        destinations={name: _destination(health) for name, health in condition.health.items()},
        unsent={name: _unsent(unsent) for name, unsent in condition.unsent.items()},
        receivers=receivers_of(reading),
        spool=_spool(condition.spool),
    )


def trouble_of(condition: Condition) -> str | None:
    """Why events do not flow, if an operator has to look into it (503); None if all is well."""
    age = age_of(condition)
    if condition.trouble is not None or age <= UNHEALTHY_AFTER:
        return condition.trouble
    reasons = [health.reason for health in condition.health.values() if health.reason]
    why = f": {', '.join(reasons)}" if reasons else ""
    return f"the oldest event has been waiting for {age:.0f} s{why}"


def age_of(condition: Condition) -> float:
    """Seconds that the oldest event has been waiting; 0 if none waits."""
    return max(0.0, time.monotonic() - condition.oldest_at) if condition.oldest_at is not None else 0.0


def _spool(spool: SpoolCondition | None) -> SpoolStatus:
    if spool is None:
        return SpoolStatus(state="off")
    status = SpoolStatus(state="on", bytes=spool.bytes, max_bytes=spool.max_bytes)
    if spool.trouble is not None:
        status["state"], status["reason"] = "failing", spool.trouble
    return status


def _unsent(unsent: Unsent) -> UnsentStatus:
    since = datetime.fromtimestamp(unsent.since, UTC).isoformat(timespec="seconds")
    return UnsentStatus(state=unsent.state, events=unsent.events, since=since)


def seen_last(health: Health, refusal: Refusal | None) -> Health:
    if refusal is None or health.down_since is not None or (health.heard is not None and health.heard > refusal.at):
        return health
    return replace(
        health,
        down_since=refusal.since,
        reason=refusal.reason,
        not_before=refusal.at + REFRESH,
        unauthorized=refusal.unauthorized,
        heard=refusal.at,
    )


def _destination(health: Health) -> Destination:
    if health.down_since is None:
        return Destination(state="unknown" if health.heard is None else "up")
    now, wall = time.monotonic(), datetime.now(UTC)
    return Destination(
        state="unauthorized" if health.unauthorized else "down",
        reason=health.reason,
        since=(wall - timedelta(seconds=now - health.down_since)).isoformat(timespec="seconds"),
        next_try=(wall + timedelta(seconds=max(0.0, health.not_before - now))).isoformat(timespec="seconds"),
    )
