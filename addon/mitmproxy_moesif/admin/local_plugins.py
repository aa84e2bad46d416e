"""The options as one global plugin instance of Kong's: shown, changed and kept.

All that it knows of parameters is the table in settings.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mitmproxy_moesif.admin.parameters import (
    FIXED,
    IMMUTABLE,
    PROTOCOLS,
    TOP_LEVEL,
    UNKNOWN,
    faults_by_field,
    given_values,
    shown_config,
    wanted_parameters,
)
from mitmproxy_moesif.admin.source import NotFound, SchemaViolation, UniqueViolation, Unsupported
from mitmproxy_moesif.admin.state import StateError, StateFile, put_in_force_and_keep
from mitmproxy_moesif.config.settings import Settings, SettingsError
from mitmproxy_moesif.kong.errors import OPTIONS_ID, PLUGIN_NAME, scope_key

_ENTITY_ONLY = frozenset(("id", "name", "instance_name", "service", "route", "consumer", "protocols", "tags"))
_TIMES = frozenset(("created_at", "updated_at"))


class LocalPluginSource:
    """One instance, made of what `read` returns.

    `apply` puts changes in force: parameter names and plain values (bool, int, str, list of str, None), each checked on
    its own already. It may refuse them with `SettingsError`, whose text is `name: reason`, several joined by `; `; then
    nothing may have changed. `state` is a file that keeps changes; call `restore` before the first one, to read it.
    Secrets are not kept, they last until the end.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        apply: Callable[[dict[str, Any]], None],
        state: Path | None = None,
        *,
        fixed: Collection[str] = FIXED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._apply = apply
        self.state = StateFile(state) if state is not None else None
        self._fixed = frozenset(fixed)
        self._clock = clock
        self._created_at = self._updated_at = int(clock())
        self._lock = threading.Lock()

    def restore(self) -> list[str]:
        """Apply what the state file keeps; returns the names. Raises `StateError` with one line that names the file."""
        if self.state is None or not (kept := self.state.read()):
            return []
        config = {name: value for name, value in kept.items() if name != TOP_LEVEL}
        given = {"config": config, **({TOP_LEVEL: kept[TOP_LEVEL]} if TOP_LEVEL in kept else {})}
        try:
            self._put_in_force(self._checked(given))
        except SchemaViolation as error:
            raise StateError(f"admin_state: {self.state.path}: {error}") from None
        return sorted(kept)

    def plugins(self) -> list[dict[str, Any]]:
        return [self._entity()]

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        if plugin_id != OPTIONS_ID:
            raise NotFound(plugin_id)
        with self._lock:
            if checked := self._checked(changes):
                self._change(checked)
                self._updated_at = int(self._clock())
            return self._entity()

    def add_plugin(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Never adds: there is one instance, and it is global."""
        check_name(given)
        self._checked({key: value for key, value in given.items() if key not in _ENTITY_ONLY})
        raise UniqueViolation.of(scope_key(PLUGIN_NAME, None, None, None))

    def remove_plugin(self, plugin_id: str) -> None:
        """Never removes."""
        if plugin_id != OPTIONS_ID:
            raise NotFound(plugin_id)
        raise Unsupported("cannot delete the options, which are this 'plugins' entity: PATCH enabled=false instead")

    # --- what is shown -------------------------------------------------------------------------------------------

    def _entity(self) -> dict[str, Any]:
        settings = self._read()
        return {
            "id": OPTIONS_ID,
            "name": PLUGIN_NAME,
            "instance_name": PLUGIN_NAME,
            "enabled": settings.enabled,
            "config": shown_config(settings),
            "service": None,
            "route": None,
            "consumer": None,
            "protocols": list(PROTOCOLS),
            "tags": None,
            "created_at": self._created_at,
            "updated_at": self._updated_at,
        }

    # --- what is changed -----------------------------------------------------------------------------------------

    def _change(self, changes: dict[str, Any]) -> None:
        keeping = None if self.state is None else self.state.adding(changes)
        put_in_force_and_keep(keeping, lambda: self._put_in_force(changes))

    def _put_in_force(self, changes: dict[str, Any]) -> None:
        try:
            self._apply(changes)
        except SettingsError as error:
            raise SchemaViolation(faults_by_field(str(error), changes)) from None

    def _checked(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that are to become something else, as plain values. Raises `SchemaViolation`."""
        return wanted_parameters(given_values(self._read()), changes, dict(self._entity_faults(changes)), self._fixed)

    def _entity_faults(self, changes: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """A whole entity may be sent back as it was shown; all but `enabled` and `config` must be unchanged then."""
        entity = self._entity()
        for name, value in changes.items():
            if name in _ENTITY_ONLY:
                if (value or None) != entity[name]:
                    yield name, IMMUTABLE
            elif name not in _TIMES and name not in (TOP_LEVEL, "config"):
                yield name, UNKNOWN


def check_name(given: Mapping[str, Any]) -> None:
    """Of the plugins that Kong knows, there is only ours. Raises `SchemaViolation`."""
    name = given.get("name")
    if name is None:
        raise SchemaViolation({"name": "required field missing"})
    if name != PLUGIN_NAME:
        fault = f"plugin '{str(name)[:100]}' not enabled; add it to the 'plugins' configuration property"
        raise SchemaViolation({"name": fault})
