"""Changes made through the Admin API: kept apart from Kong's configuration, and applied on top of each version of it.

    changes = Overlay().patched("id-1", {"enabled": False, "config": {"debug": True}})
    changes.over(config)     the configuration with the changes
    changes.fitting(config)  the changes that fit another version, and messages about those lost

Values only: nothing here takes effect (kong_plugins.py does that).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from mitmproxy_moesif.kong.entities import KongConfig, Plugin
from mitmproxy_moesif.kong.errors import PLUGIN_NAME
from mitmproxy_moesif.log import log

REFERENCES = ("service", "route", "consumer")

type Patch = Mapping[str, Any]
"""Fields of a plugin entity; in `config` only those that were changed."""


class LivePlugin(Plugin):
    """A plugin entry changed through the Admin API: `changes` of its config override even the options."""

    changes: dict[str, Any] = Field(default_factory=dict, repr=False)
    created: bool = False

    def plain(self) -> dict[str, Any]:
        """An added entry as JSON values, secrets included."""
        own = {"name"} if self.name == PLUGIN_NAME else set()
        fields = self.model_dump(exclude={"id", "config", "changes", "created", *own}, exclude_none=True)
        return {**fields, "config": self.changes}

    @property
    def entered(self) -> str:
        return "created" if self.created else "changed"


@dataclass(frozen=True, slots=True)
class Overlay:
    """Changed and added entries, both by id. Immutable: each change makes a new one."""

    patches: Mapping[str, Patch] = field(default_factory=dict, repr=False)
    created: Mapping[str, LivePlugin] = field(default_factory=dict, repr=False)

    def patched(self, plugin_id: str, patch: Patch) -> Overlay:
        """A copy with more changes. Raises pydantic's `ValidationError` if they make an added entry invalid."""
        if plugin_id in self.created:
            return replace(self, created={**self.created, plugin_id: _patched(self.created[plugin_id], patch)})
        before = self.patches.get(plugin_id, {})
        config = {**before.get("config", {}), **patch.get("config", {})}
        return replace(self, patches={**self.patches, plugin_id: {**before, **patch, "config": config}})

    def replaced(self, plugin_id: str, patch: Patch) -> Overlay:
        """A copy with these as the only changes to an entry of the configuration."""
        others = {id_: other for id_, other in self.patches.items() if id_ != plugin_id}
        return replace(self, patches={**others, plugin_id: patch} if patch else others)

    def adding(self, plugin: LivePlugin) -> Overlay:
        return replace(self, created={**self.created, plugin.id: plugin})

    def removing(self, plugin_id: str) -> Overlay:
        """A copy without an added entry."""
        return replace(self, created={id_: plugin for id_, plugin in self.created.items() if id_ != plugin_id})

    def over(self, config: KongConfig) -> KongConfig:
        """The configuration with these changes. Raises pydantic's `ValidationError` if an entry becomes invalid."""
        if not self.patches and not self.created:
            return config
        plugins = [
            _patched(plugin, self.patches[plugin.id]) if plugin.id in self.patches else plugin
            for plugin in config.plugins
        ]
        return replace(config, plugins=(*plugins, *self.created.values()))

    def plain(self) -> dict[str, dict[str, Any]]:
        """The changes as JSON values, secrets included: `plugins` and `created`, by id."""
        return {"plugins": dict(self.patches), "created": {id_: plugin.plain() for id_, plugin in self.created.items()}}

    def fitting(self, config: KongConfig) -> tuple[Overlay, list[str]]:
        """The changes that fit this configuration, and a line for each that is lost.

        A change is lost with its entry. An added entry is lost with the entity it is for, or if the configuration has
        an entry of the same scope, id or name.
        """
        ids = {plugin.id for plugin in config.plugins}
        patches = {id_: patch for id_, patch in self.patches.items() if id_ in ids}
        lost = [f"plugin {id_!r} no longer exists; its changes are lost" for id_ in self.patches if id_ not in ids]
        created = {}
        for plugin in self.created.values():
            reason = _misfit(plugin, config)
            if reason is None:
                created[plugin.id] = plugin
            else:
                lost.append(f"plugin {plugin.instance_name or plugin.id!r}, created live, was removed: {reason}")
        return Overlay(patches, created), lost


type Make = Callable[[Overlay, KongConfig], Overlay]


def scope(plugin: Plugin) -> tuple[str | None, ...]:
    """The key that must be unique among plugins."""
    return plugin.name, plugin.service_id, plugin.route_id, plugin.consumer_id, plugin.consumer_group_id


def entities(config: KongConfig, kind: str) -> Iterator[tuple[str, tuple[tuple[str, str | None], ...]]]:
    """Id and names (`("name", "orders")`) of all `services`, `routes` or `consumers`."""
    if kind == "consumers":
        for consumer in config.consumers:
            yield consumer.id, (("username", consumer.username), ("custom_id", consumer.custom_id))
        return
    for entity in config.services if kind == "services" else config.routes:
        yield entity.id, (("name", entity.name),)


def _misfit(plugin: Plugin, config: KongConfig) -> str | None:
    for name in REFERENCES:
        target = getattr(plugin, f"{name}_id")
        if target is not None and all(target != id_ for id_, _ in entities(config, f"{name}s")):
            return f"there is no {name} {target!r} any more"
    for other in config.plugins:
        if scope(other) == scope(plugin):
            return "the configuration has a plugin of the same scope"
        if other.id == plugin.id or (other.instance_name is not None and other.instance_name == plugin.instance_name):
            return "the configuration has a plugin of the same name"
    return None


def _patched(plugin: Plugin, patch: Patch) -> LivePlugin:
    before = plugin.changes if isinstance(plugin, LivePlugin) else {}
    given = {**dict(plugin), **patch, "config": plugin.config, "changes": {**before, **patch.get("config", {})}}
    return LivePlugin.model_validate(given)


class LiveOverlay:
    """Applies Kong's configuration and the changes together. Call from any thread except mitmproxy's event loop.

    `changed` schedules a configuration on the loop; it raises `SettingsError` if that is invalid. `settle` waits until
    it is applied, and raises `SettingsError` if that takes too long.
    """

    def __init__(self, changed: Callable[[KongConfig], None], settle: Callable[[], None], base: KongConfig) -> None:
        self._changed = changed
        self._settle = settle
        self._lock = threading.Lock()
        self.base = base
        self.config = base
        self.changes = Overlay()

    def replaced(self, base: KongConfig) -> None:
        """Use another version of the configuration. If `changed` raises, this raises too and changes nothing."""
        with self._lock:
            changes, lost = self.changes.fitting(base)
            config = changes.over(base)
            self._changed(config)
            self.base, self.config, self.changes = base, config, changes
        for line in lost:
            log.warning("moesif: admin API: %s", line)

    def change(self, make: Make) -> None:
        """Apply the result of `make`, which is called with the current changes and the configuration without them.

        If anything raises, nothing changes.
        """
        with self._lock:
            changes = make(self.changes, self.base)
            if changes == self.changes:
                return
            config = changes.over(self.base)
            self._changed(config)
            try:
                self._settle()
            except Exception:
                self._changed(self.config)
                raise
            self.config, self.changes = config, changes
