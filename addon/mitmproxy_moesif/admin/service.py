"""The runtime as its operators see it: status, health, and the options as Kong's plugin entities."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy_moesif import __version__
from mitmproxy_moesif.admin.kong_plugins import KongPluginSource
from mitmproxy_moesif.admin.local_plugins import LocalPluginSource
from mitmproxy_moesif.admin.source import Destination, NotFound, SpoolStatus, Status
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.kong.errors import OPTIONS_ID, PLUGIN_NAME
from mitmproxy_moesif.kong.overlay import REFERENCES, LiveOverlay

if TYPE_CHECKING:
    from mitmproxy_moesif.config.live import LiveOptions
    from mitmproxy_moesif.delivery.api import Condition, Delivery, SpoolCondition
    from mitmproxy_moesif.delivery.sender import Health
    from mitmproxy_moesif.kong.resolver import Resolver

UNHEALTHY_AFTER = 300.0
"""Seconds that an event may wait before health says so; Moesif counts later events as late."""


class Operations:
    """What the admin listener asks. Called from its thread."""

    def __init__(
        self,
        delivery: Delivery,
        read: Callable[[], Settings],
        change: LiveOptions,
        resolver: Callable[[], Resolver | None],
        given: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._delivery = delivery
        self._resolver = resolver
        self._given = given
        self._began = time.monotonic()
        state = read().admin_state
        self.local = LocalPluginSource(read, change, Path(state) if state is not None else None)
        self._kong: KongPluginSource | None = None

    def follow(self, live: LiveOverlay) -> None:
        """Show and change these instances too, from now on; changes that were kept are restored.

        Raises `StateError` with one line.
        """
        kong = KongPluginSource(live, self._given, self.local.state)
        kong.restore()
        self._kong = kong

    def status(self) -> Status:
        condition = self._delivery.condition()
        reading = condition.reading
        resolver = self._resolver()
        status = Status(
            version=__version__,
            uptime=round(time.monotonic() - self._began, 3),
            captured=reading.captured,
            recovered=reading.recovered,
            delivered=reading.delivered,
            waiting={"memory": reading.waiting_in_memory, "disk": reading.waiting_on_disk},
            dropped=reading.dropped,
            skipped=reading.skipped,
            faults=reading.faults,
            oldest_waiting=round(age_of(condition), 3) if reading.waiting else None,
            destinations={name: _destination(health) for name, health in condition.health.items()},
            spool=_spool(condition.spool),
        )
        if resolver is not None:
            status["kong"] = resolver.describe()
        return status

    def health(self) -> tuple[bool, str]:
        """503 is for what an operator has to look at: events that do not flow."""
        condition = self._delivery.condition()
        age = age_of(condition)
        if age <= UNHEALTHY_AFTER:
            return True, "ok"
        reasons = [health.reason for health in condition.health.values() if health.reason]
        why = f": {', '.join(reasons)}" if reasons else ""
        return False, f"the oldest event has been waiting for {age:.0f} s{why}"

    def plugins(self) -> Sequence[Mapping[str, Any]]:
        """The options come first."""
        return [*self.local.plugins(), *(self._kong.plugins() if self._kong is not None else ())]

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._source_of(plugin_id).patch_plugin(plugin_id, changes)

    def add_plugin(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """A global one only where the options are none, since Kong's configuration has instances."""
        resolver = self._resolver()
        scoped = any(given.get(name) for name in REFERENCES)
        if self._kong is not None and (scoped or (resolver is not None and resolver.has_instances)):
            return self._kong.add_plugin(given)
        return self.local.add_plugin(given)

    def remove_plugin(self, plugin_id: str) -> None:
        self._source_of(plugin_id).remove_plugin(plugin_id)

    def find_entity(self, kind: str, name: str) -> str:
        if self._kong is None:
            raise NotFound(name)
        return self._kong.find_entity(kind, name)

    def _source_of(self, plugin_id: str) -> LocalPluginSource | KongPluginSource:
        return self.local if self._kong is None or plugin_id == OPTIONS_ID else self._kong

    def explain(self, method: str, host: str | None, path: str) -> Mapping[str, Any]:
        resolver = self._resolver()
        if resolver is None:
            return {
                "instance": {"id": OPTIONS_ID, "instance_name": PLUGIN_NAME},
                "why": "the options are one global instance",
            }
        return resolver.scopes.explain(method, host, path)


def age_of(condition: Condition) -> float:
    """Seconds that the oldest event has been waiting; 0 with none waiting."""
    return max(0.0, time.monotonic() - condition.oldest_at) if condition.oldest_at is not None else 0.0


def _spool(spool: SpoolCondition | None) -> SpoolStatus:
    if spool is None:
        return SpoolStatus(state="off")
    status = SpoolStatus(state="on", bytes=spool.bytes, max_bytes=spool.max_bytes)
    if spool.trouble is not None:
        status["state"], status["reason"] = "failing", spool.trouble
    return status


def _destination(health: Health) -> Destination:
    if health.down_since is None:
        return Destination(state="up")
    now, wall = time.monotonic(), datetime.now(UTC)
    return Destination(
        state="unauthorized" if health.unauthorized else "down",
        reason=health.reason,
        since=(wall - timedelta(seconds=now - health.down_since)).isoformat(timespec="seconds"),
        next_try=(wall + timedelta(seconds=max(0.0, health.not_before - now))).isoformat(timespec="seconds"),
    )
