"""The runtime as its operators see it: status, health, and the options as Kong's plugin entities."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy.exceptions import OptionsError

from mitmproxy_moesif import __version__
from mitmproxy_moesif.admin.local_plugins import LocalPluginSource
from mitmproxy_moesif.admin.source import Destination, SpoolStatus, Status
from mitmproxy_moesif.settings import Settings, SettingsError

if TYPE_CHECKING:
    from mitmproxy.master import Master

    from mitmproxy_moesif.delivery.pipeline import Pipeline
    from mitmproxy_moesif.delivery.sender import Health
    from mitmproxy_moesif.scoping import Scoping

UNHEALTHY_AFTER = 300.0
"""Seconds that an event may wait before health says so; Moesif counts later events as late."""

APPLY_SECONDS = 5.0


class Operations:
    """What the admin listener asks. Called from its thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        read: Callable[[], Settings],
        change: LiveOptions,
        scoping: Callable[[], Scoping | None],
    ) -> None:
        self._pipeline = pipeline
        self._scoping = scoping
        self._began = time.monotonic()
        state = read().admin_state
        self.local = LocalPluginSource(read, change, Path(state) if state is not None else None)

    def status(self) -> Status:
        reading = self._pipeline.reading()
        oldest = self._pipeline.store.oldest_age()
        scoping = self._scoping()
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
            oldest_waiting=round(oldest, 3) if reading.waiting else None,
            destinations={name: _destination(health) for name, health in self._pipeline.health().items()},
            spool=self._spool(),
        )
        if scoping is not None:
            status["kong"] = scoping.describe()
        return status

    def _spool(self) -> SpoolStatus:
        store = self._pipeline.store
        if not store.has_folder:
            return SpoolStatus(state="off")
        status = SpoolStatus(state="on", bytes=store.disk_bytes(), max_bytes=store.max_bytes)
        if store.trouble is not None:
            status["state"], status["reason"] = "failing", store.trouble
        return status

    def health(self) -> tuple[bool, str]:
        """503 is for what an operator has to look at: events that do not flow."""
        age = self._pipeline.store.oldest_age()
        if age <= UNHEALTHY_AFTER:
            return True, "ok"
        reasons = [health.reason for health in self._pipeline.health().values() if health.reason]
        why = f": {', '.join(reasons)}" if reasons else ""
        return False, f"the oldest event has been waiting for {age:.0f} s{why}"

    def plugins(self) -> Sequence[Mapping[str, Any]]:
        return self.local.plugins()

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.local.patch_plugin(plugin_id, changes)

    def add_plugin(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.local.add_plugin(given)

    def explain(self, method: str, host: str | None, path: str) -> Mapping[str, Any]:
        scoping = self._scoping()
        if scoping is None or not scoping.has_instances:
            return {"instance": {"id": None, "instance_name": "moesif"}, "why": "the options are one global instance"}
        return scoping.scopes.explain(method, host, path)


class LiveOptions:
    """Changes mitmproxy's options from another thread, on its event loop. Raises `SettingsError` where refused."""

    def __init__(self, master: Master, prefix: str) -> None:
        self._master = master
        self._prefix = prefix
        self._loop_thread = threading.get_ident()

    def __call__(self, changes: dict[str, Any]) -> None:
        if threading.get_ident() == self._loop_thread:
            self._update(changes)
            return
        done: Future[None] = Future()

        def update() -> None:
            try:
                self._update(changes)
            except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
                done.set_exception(error)
            else:
                done.set_result(None)

        self._master.event_loop.call_soon_threadsafe(update)
        try:
            done.result(APPLY_SECONDS)
        except FutureTimeoutError:
            raise SettingsError("the proxy is too busy to take the change now") from None

    def _update(self, changes: dict[str, Any]) -> None:
        try:
            self._master.options.update(**{self._prefix + name: value for name, value in changes.items()})
        except OptionsError as error:
            raise SettingsError(str(error).removeprefix("moesif: ")) from None


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
