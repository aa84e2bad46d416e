"""The options as one global plugin instance of Kong's: shown and changed.

Knows parameters only from the table in settings.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mitmproxy_moesif.admin.parameters import (
    PROTOCOLS,
    REQUIRED,
    TOP_LEVEL,
    entity_faults,
    faults_by_field,
    given_values,
    shown_config,
    wanted_parameters,
)
from mitmproxy_moesif.admin.source import NotFound, SchemaViolation, UniqueViolation, Unsupported
from mitmproxy_moesif.admin.state import Document
from mitmproxy_moesif.config.settings import AS_STARTED, Settings, SettingsError
from mitmproxy_moesif.kong.errors import OPTIONS_ID, PLUGIN_NAME, scope_key

_ENTITY_ONLY = frozenset(("id", "name", "instance_name", "service", "route", "consumer", "protocols", "tags"))


class LocalPluginSource:
    """One instance, made from the result of `read`.

    `apply` applies changes: parameter names and plain values (bool, int, str, list of str, None), each already
    validated on its own, or `AS_STARTED`. It may refuse them all with `SettingsError`, whose text is `name: reason`,
    several joined by `; `.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        apply: Callable[[dict[str, Any]], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._apply = apply
        self._changes: dict[str, Any] = {}
        self._clock = clock
        self._created_at = self._updated_at = int(clock())

    def document(self) -> Document:
        """The changes: `config`, and `enabled` if it was changed."""
        config = {name: value for name, value in self._changes.items() if name != TOP_LEVEL}
        enabled = {TOP_LEVEL: self._changes[TOP_LEVEL]} if TOP_LEVEL in self._changes else {}
        return {**enabled, "config": config}

    def take(self, document: Document) -> None:
        """Replace all changes by those of a document. Raises `SchemaViolation`."""
        self._become(
            self._checked({name: document[name] for name in (TOP_LEVEL, "config") if name in document}, same_too=True)
        )

    def _become(self, wanted: dict[str, Any]) -> None:
        """Replace the changes by these."""
        changed = {name: value for name, value in wanted.items() if self._changes.get(name, AS_STARTED) != value}
        gone = dict.fromkeys(self._changes.keys() - wanted.keys(), AS_STARTED)
        if changed or gone:
            self._put_in_force({**changed, **gone})
        self._changes = wanted

    def plugins(self) -> list[dict[str, Any]]:
        return [self._entity()]

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        if plugin_id != OPTIONS_ID:
            raise NotFound(plugin_id)
        if checked := self._checked(changes):
            self._put_in_force(checked)
            self._changes |= checked
            self._updated_at = int(self._clock())
        return self._entity()

    def replace_plugin(self, plugin_id: str, given: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
        if plugin_id != OPTIONS_ID:
            raise NotFound(plugin_id)
        check_name(given)
        still = {name: value for name, value in self._changes.items() if name in kept}
        self._become({**still, **self._checked(given, same_too=True)})
        self._updated_at = int(self._clock())
        return self._entity()

    def add_plugin(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Always raises: there is one instance, and it is global."""
        check_name(given)
        self._checked({key: value for key, value in given.items() if key not in _ENTITY_ONLY})
        raise UniqueViolation.of(scope_key(PLUGIN_NAME, None, None, None))

    def remove_plugin(self, plugin_id: str) -> None:
        """Always raises."""
        if plugin_id != OPTIONS_ID:
            raise NotFound(plugin_id)
        raise Unsupported("cannot delete the options, which are this 'plugins' entity: PATCH enabled=false instead")

    # --- display -------------------------------------------------------------------------------------------------

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

    # --- changes -------------------------------------------------------------------------------------------------

    def _put_in_force(self, changes: dict[str, Any]) -> None:
        try:
            self._apply(changes)
        except SettingsError as error:
            raise SchemaViolation(faults_by_field(str(error), changes)) from None

    def _checked(self, changes: Mapping[str, Any], *, same_too: bool = False) -> dict[str, Any]:
        """The parameters to change, as plain values. Raises `SchemaViolation`."""
        faults = entity_faults(self._entity(), changes, (TOP_LEVEL, "config"))
        return wanted_parameters(given_values(self._read()), changes, faults, same_too=same_too)


def check_name(given: Mapping[str, Any], known: Collection[str] = (PLUGIN_NAME,)) -> None:
    """Refuse any other plugin. Raises `SchemaViolation`."""
    name = given.get("name")
    if name is None:
        raise SchemaViolation({"name": REQUIRED})
    if not isinstance(name, str):
        raise SchemaViolation({"name": "expected a string"})
    if name not in known:
        fault = f"plugin '{name[:100]}' not enabled; add it to the 'plugins' configuration property"
        raise SchemaViolation({"name": fault})
