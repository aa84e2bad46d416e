"""The instances of Kong's configuration, and added ones, as plugin entities of the Admin API.

Called from the listener's thread. Each change is validated as a whole and applied on the event loop before the response
(`LiveOverlay`). Changes overlay Kong's configuration: they survive new versions of it as long as they have the entry's
id.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mitmproxy_moesif.admin.local_plugins import check_name
from mitmproxy_moesif.admin.parameters import (
    IMMUTABLE,
    PROTOCOLS,
    REQUIRED,
    TIMES,
    TOP_LEVEL,
    UNKNOWN,
    entity_faults,
    shown_config,
    wanted_of_plugin,
)
from mitmproxy_moesif.admin.redact import redacted
from mitmproxy_moesif.admin.source import (
    ForeignKeyViolation,
    NotFound,
    SchemaViolation,
    UniqueViolation,
    Unsupported,
    is_uuid,
)
from mitmproxy_moesif.admin.state import SECRETS, Document
from mitmproxy_moesif.config.settings import SettingsError, parse_settings
from mitmproxy_moesif.kong.entities import Entity, KongConfig, Plugin
from mitmproxy_moesif.kong.errors import PLUGIN_NAME, in_kongs_words, reference, scope_key
from mitmproxy_moesif.kong.overlay import REFERENCES, LiveOverlay, LivePlugin, Make, Overlay, entities, scope
from mitmproxy_moesif.kong.resolver import instance_values, missing_receiver, prefix_of, prefixed
from mitmproxy_moesif.kong.scopes import CAPTURING, InstanceTable, ScopeConflict
from mitmproxy_moesif.log import log

_CHANGEABLE = frozenset((TOP_LEVEL, "config", "tags"))
_GIVEN = _CHANGEABLE | {"id", "name", "instance_name", "protocols", *REFERENCES}


class KongPluginSource:
    """Methods raise the same errors as those of `AdminSource`. `given` returns the options and the environment, which
    override each instance's `config`."""

    def __init__(
        self,
        live: LiveOverlay,
        given: Callable[[], Mapping[str, Any]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._given = given
        self._clock = clock
        self._began = int(clock())
        self._updated: dict[str, int] = {}

    def plugins(self) -> list[dict[str, Any]]:
        return [self._entity(plugin) for plugin in self._live.config.plugins if plugin.name in CAPTURING]

    def patch_plugin(self, plugin_id: str, given: Mapping[str, Any]) -> dict[str, Any]:
        before = self._live.changes

        def make(changes: Overlay, base: KongConfig) -> Overlay:
            plugin = _find(changes.over(base), plugin_id)
            patch = self._patch(plugin, given)
            return changes.patched(plugin_id, patch) if patch else changes

        self._change(make)
        if self._live.changes is not before:
            self._updated[plugin_id] = int(self._clock())
        return self._entity(_find(self._live.config, plugin_id))

    def replace_plugin(self, plugin_id: str, given: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
        check_name(given, CAPTURING)

        def make(changes: Overlay, base: KongConfig) -> Overlay:
            plugin = _find(changes.over(base), plugin_id)
            if given.get("name") != plugin.name:
                raise SchemaViolation({"name": IMMUTABLE})
            before = plugin.changes if isinstance(plugin, LivePlugin) else {}
            still = {name: value for name, value in before.items() if name in kept}
            if plugin_id not in changes.created:
                return changes.replaced(plugin_id, self._patch(_find(base, plugin_id), given, still))
            rest = changes.removing(plugin_id)
            made = self._created({**given, "id": plugin_id, "created_at": plugin.created_at}, base, still)
            _check_unique(made, rest.over(base))
            return rest.adding(made)

        self._change(make)
        self._updated[plugin_id] = int(self._clock())
        return self._entity(_find(self._live.config, plugin_id))

    def add_plugin(self, given: Mapping[str, Any]) -> dict[str, Any]:
        check_name(given, CAPTURING)
        added: list[LivePlugin] = []

        def make(changes: Overlay, base: KongConfig) -> Overlay:
            plugin = self._created(given, base)
            _check_unique(plugin, changes.over(base))
            added.append(plugin)
            return changes.adding(plugin)

        self._change(make)
        return self._entity(added[0])

    def remove_plugin(self, plugin_id: str) -> None:
        if plugin_id not in self._live.changes.created:
            _find(self._live.config, plugin_id)
            raise Unsupported(
                "cannot delete 'plugins' entities of Kong's configuration: remove it there, or PATCH enabled=false"
            )
        self._change(lambda changes, _: changes.removing(plugin_id))

    def list_entities(self, kind: str) -> Sequence[Entity]:
        base = self._live.base
        return {"services": base.services, "routes": base.routes, "consumers": base.consumers}[kind]

    def find_entity(self, kind: str, name: str) -> str:
        """The id of an entity, given its id or name; a consumer's name is its `username`. Raises `NotFound`."""
        known = list(entities(self._live.base, kind))
        if any(id_ == name for id_, _ in known):
            return name
        for id_, ((_, own), *_others) in known:
            if own == name:
                return id_
        raise NotFound(name)

    def document(self) -> Document:
        """All changes: `plugins` and `created`."""
        return self._live.changes.plain()

    def take(self, document: Document) -> None:
        """Replace all changes by those of a document that still fit.

        Raises `SchemaViolation`, `UniqueViolation`.
        """
        self._change(lambda _, base: self._restored(document, base))

    # --- display -------------------------------------------------------------------------------------------------

    def _entity(self, plugin: Plugin) -> dict[str, Any]:
        created = self._began if plugin.created_at is None else plugin.created_at
        group = {} if plugin.consumer_group_id is None else {"consumer_group": reference(plugin.consumer_group_id)}
        return {
            "id": plugin.id,
            "name": plugin.name,
            "instance_name": plugin.instance_name,
            "enabled": plugin.enabled,
            "config": self._config(plugin),
            **{name: reference(getattr(plugin, f"{name}_id")) for name in REFERENCES},
            **group,
            "protocols": list(plugin.protocols or PROTOCOLS),
            "tags": list(plugin.tags) or None,
            "created_at": created,
            "updated_at": self._updated.get(plugin.id, created),
        }

    def _config(self, plugin: Plugin) -> Any:
        """The effective config; a disabled plugin's may be invalid, and is then shown as given."""
        values = instance_values(plugin, self._given())
        try:
            return shown_config(parse_settings(values), prefix_of(plugin.name))
        except SettingsError:
            return redacted(plugin.config)

    # --- changes -------------------------------------------------------------------------------------------------

    def _change(self, make: Make) -> None:
        def checked(changes: Overlay, base: KongConfig) -> Overlay:
            try:
                made = make(changes, base)
                InstanceTable(plugin for plugin in made.over(base).plugins if plugin.name in CAPTURING)
            except ScopeConflict as error:
                raise UniqueViolation.of(error.key) from None
            except ValidationError as error:
                raise SchemaViolation(_faults(error)) from None
            return made

        try:
            self._live.change(checked)
        except SettingsError as error:
            raise SchemaViolation({"@entity": [str(error)]}) from None

    def _patch(
        self, plugin: Plugin, given: Mapping[str, Any], still: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The changed fields of the entity in `given`; `still` are parameters that remain changed.

        Raises `SchemaViolation`.
        """
        still, prefix = still or {}, prefix_of(plugin.name)
        values = {**instance_values(plugin, self._given()), **prefixed(prefix, still), TOP_LEVEL: plugin.enabled}
        config = {**still} | wanted_of_plugin(
            prefix, values, given, entity_faults(self._entity(plugin), given, _CHANGEABLE)
        )
        enabled = config.pop(TOP_LEVEL, plugin.enabled)
        if enabled:
            _check_receiver(plugin.name, {**values, **prefixed(prefix, config)})
        patch: dict[str, Any] = {} if enabled == plugin.enabled else {TOP_LEVEL: enabled}
        tags = _listed(given.get("tags", plugin.tags))
        if tags != list(plugin.tags):
            patch["tags"] = tags
        return {**patch, "config": config} if config else patch

    def _created(
        self, given: Mapping[str, Any], base: KongConfig, still: Mapping[str, Any] | None = None
    ) -> LivePlugin:
        """A new entry; `still`: its earlier parameters. Raises `SchemaViolation`, `ForeignKeyViolation`, or pydantic's
        `ValidationError`."""
        still, name = still or {}, str(given["name"])
        prefix = prefix_of(name)
        values = {**self._given(), **prefixed(prefix, still), TOP_LEVEL: True}
        faults = {name: UNKNOWN for name in given if name not in _GIVEN and name not in TIMES}
        if given.get("id") is not None and not is_uuid(given["id"]):
            faults["id"] = "expected a valid UUID"
        config = {**still} | wanted_of_plugin(prefix, values, given, faults, same_too=True)
        enabled = config.pop(TOP_LEVEL, True)
        if enabled:
            _check_receiver(name, {**values, **prefixed(prefix, config)})
        ids = {f"{name}_id": _resolved(base, name, given.get(name)) for name in REFERENCES}
        fields = {
            "id": given.get("id") or _id_for(name, ids),
            "name": name,
            "instance_name": given.get("instance_name"),
            "tags": _listed(given.get("tags")),
            "protocols": _listed(given.get("protocols")),
            **ids,
            "created_at": int(self._clock()) if given.get("created_at") is None else given["created_at"],
        }
        return LivePlugin.model_validate({**fields, "enabled": enabled, "changes": config, "created": True})

    # --- saved changes -------------------------------------------------------------------------------------------

    def _restored(self, document: Document, base: KongConfig) -> Overlay:
        changes = Overlay()
        for plugin_id, entity in document.get("created", {}).items():
            changes = changes.adding(self._restored_entity(plugin_id, entity))
        changes, lost = changes.fitting(base)
        for plugin_id, patch in document.get("plugins", {}).items():
            try:
                plugin = _find(base, plugin_id)
            except NotFound:
                lost.append(f"plugin {plugin_id!r} no longer exists; its changes are lost")
                continue
            changes = changes.patched(plugin_id, self._patch(plugin, _fields(patch)))
            lost += [
                f"plugin {plugin_id!r}: the change of {name} was not saved: it has its configured value again"
                for name in patch.get(SECRETS, ())
            ]
        for line in lost:
            log.warning("moesif: admin_state: %s", line)
        return changes

    def _restored_entity(self, plugin_id: str, entity: Mapping[str, Any]) -> LivePlugin:
        """A saved entry; disabled if its own application id was not saved, since it must not use another account."""
        name = entity.get("name", PLUGIN_NAME)
        values, prefix = {**self._given(), TOP_LEVEL: True}, prefix_of(name)
        config = wanted_of_plugin(prefix, values, {"config": entity.get("config", {})}, {}, same_too=True)
        enabled = bool(entity.get(TOP_LEVEL, True))
        whole = parse_settings({**values, **prefixed(prefix, config)})
        if enabled and ("application_id" in entity.get(SECRETS, ()) or missing_receiver(name, whole) is not None):
            enabled = False
            log.warning(
                "moesif: admin_state: plugin %r: application_id is not saved: it stays disabled until a PATCH gives "
                "config.application_id and enabled=true",
                entity.get("instance_name") or plugin_id,
            )
        fields = {**_fields(entity), "config": {}, "id": plugin_id, "name": name}
        return LivePlugin.model_validate({**fields, "enabled": enabled, "changes": config, "created": True})


def _check_receiver(plugin_name: str, values: Mapping[str, Any]) -> None:
    """Raises `SchemaViolation` if the plugin has nowhere to send its events."""
    if (missing := missing_receiver(plugin_name, parse_settings(values))) is not None:
        raise SchemaViolation({"config": {missing: REQUIRED}})


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != SECRETS}


def _find(config: KongConfig, plugin_id: str) -> Plugin:
    for plugin in config.plugins:
        if plugin.id == plugin_id and plugin.name in CAPTURING:
            return plugin
    raise NotFound(plugin_id)


def _id_for(plugin_name: str, ids: Mapping[str, str | None]) -> str:
    """An id derived from the scope, which is unique: the same in all workers of a proxy, and on every start."""
    scoped = prefix_of(plugin_name) + ":".join(f"{name}={id_}" for name, id_ in ids.items() if id_ is not None)
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"mitmproxy-moesif:created:{scoped}"))


def _check_unique(plugin: Plugin, config: KongConfig) -> None:
    """Plugins of the same name must differ in scope, as in Kong, even if disabled. Raises `UniqueViolation`."""
    if any(scope(other) == scope(plugin) for other in config.plugins):
        raise UniqueViolation.of(scope_key(plugin.name, plugin.service_id, plugin.route_id, plugin.consumer_id))
    taken = {PLUGIN_NAME, *(other.instance_name for other in config.plugins)}
    if plugin.instance_name is not None and plugin.instance_name in taken:
        raise UniqueViolation.of({"instance_name": plugin.instance_name})
    if any(other.id == plugin.id for other in config.plugins):
        raise UniqueViolation.of({"id": plugin.id})


def _resolved(base: KongConfig, field: str, given: Any) -> str | None:
    """The id for `{"id": ...}`, `{"name": ...}` or, for consumers, `{"username": ...}`; None if nothing is given."""
    if given is None or given == {}:
        return None
    if not isinstance(given, Mapping):
        raise SchemaViolation({field: "expected a record"})
    known = list(entities(base, f"{field}s"))
    names = ("username", "custom_id") if field == "consumer" else ("name",)
    for by, value in given.items():
        if by not in ("id", *names):
            raise SchemaViolation({field: {str(by)[:100]: UNKNOWN}})
        found = next((id_ for id_, own in known if value == (id_ if by == "id" else dict(own)[by])), None)
        if value is None or found is None:
            raise ForeignKeyViolation.of(field, by, str(value)[:200])
    return found


def _listed(given: Any) -> Any:
    """A list; a single text from a form becomes a list of one."""
    if given is None or given == "":
        return []
    return [given] if isinstance(given, str) else list(given) if isinstance(given, tuple) else given


def _faults(error: ValidationError) -> dict[str, str]:
    found = {}
    for fault in error.errors(include_url=False, include_input=False):
        found[str(fault["loc"][0])] = "expected a set" if fault["type"] == "tuple_type" else in_kongs_words(fault)
    return found
