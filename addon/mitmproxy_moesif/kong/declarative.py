"""Reads Kong's declarative file, or the Admin API's listings, into one `KongConfig`.

Both are first flattened: one `Draft` for each entity, with its fields as given, its place in the file and its parents.
Then missing ids are generated, references are resolved, and the drafts become entities. The first error stops this,
with one line: file, line, entity, reason. It never has a value of a plugin's `config`. A field that narrows an instance
of ours and is not supported is an error too.

Source: Kong's declarative format, versions 1.1, 2.1 and 3.0, and decK's additions (`_info.defaults`,
`_plugin_configs`).
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from mitmproxy_moesif.config.document import MAX_JSON, Path
from mitmproxy_moesif.config.files import configured_files
from mitmproxy_moesif.config.settings import SettingsError
from mitmproxy_moesif.config.text import closest, reason_of
from mitmproxy_moesif.kong.document import Document, KongConfigError, parse_document, without_lines
from mitmproxy_moesif.kong.entities import Consumer, Entity, Flavor, KongConfig, Plugin, Route, Service
from mitmproxy_moesif.kong.errors import in_kongs_words
from mitmproxy_moesif.kong.expressions import ExpressionError, compile_expression
from mitmproxy_moesif.kong.normalize import RESERVED, exact_text, from_text, normalize
from mitmproxy_moesif.kong.placeholders import resolve_reference
from mitmproxy_moesif.kong.scopes import CAPTURING, InstanceTable, ScopeConflict, depend_on_routes

__all__ = ["KongConfigError", "from_admin_api", "load_declarative", "parse_declarative"]

VERSIONS = ("1.1", "2.1", "3.0")

NESTED = {
    "services": ("plugins", "routes"),
    "routes": ("plugins",),
    "consumer_groups": ("plugins",),
    "consumers": ("plugins",),
    "plugins": (),
}
"""The kinds that are read, and the kinds that may be nested in each."""

MEMBERS = "consumer_group_consumers"
"""The list of group memberships in a flat file."""

_REFERENCES = {
    "services": (),
    "routes": ("service",),
    "consumer_groups": (),
    "consumers": (),
    "plugins": ("service", "route", "consumer", "consumer_group"),
}
_NAMES = {"services": "name", "routes": "name", "consumer_groups": "name", "consumers": "username", "plugins": "name"}
_UNIQUE = {
    "services": ("name", "id"),
    "routes": ("name", "id"),
    "consumer_groups": ("name", "id"),
    "consumers": ("username", "custom_id", "id"),
    "plugins": ("instance_name", "id"),
}
_NARROWING = {
    "routes": tuple(Route.model_fields),
    "plugins": (*Plugin.model_fields, *_REFERENCES["plugins"], "condition", "ordering", "partials"),
}
"""The fields of kinds where a misspelt field would match more requests than intended."""

_NOT_UNDERSTOOD = {
    "condition": "give the instance a service, route or consumer, or the option `skip`",
    "ordering": "remove it: exchanges are captured as a whole, in any order of plugins",
    "partials": "put their content into `config`",
}
"""Unsupported fields of a plugin that decide when or how it runs, and what to use instead."""

# Kong uses the same namespace to derive ids of entities that have none in the file
_NAMESPACE = uuid.UUID("fd02801f-0957-4a15-a55a-c8d9606f30b5")

_PLAIN_PATH = re.compile(r"[a-zA-Z0-9.\-_~/%]*")
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
_MEANS_SOMETHING = frozenset(b".^-{}\\|")
"""Bytes with a special meaning in regular expressions, other than the reserved ones."""


@dataclass
class Draft:
    """An entity as given: `fields`, its `path` in the document, its `label` in errors, its enclosing entities."""

    kind: str
    fields: dict[str, Any]
    path: Path
    label: str
    parents: dict[str, Draft]
    id: str = ""
    references: dict[str, Draft] = field(default_factory=dict)


type Check = Callable[[Plugin], object]
"""Raises `SettingsError` if an enabled instance of ours is invalid."""


def unchecked(_plugin: Plugin) -> None:
    """Accept any instance."""


def load_declarative(path: FilePath, check: Check = unchecked) -> KongConfig:
    """Read a declarative file. Raises `KongConfigError`, also if the file cannot be read."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise KongConfigError(f"{path}: has more than {MAX_JSON} bytes")
        content = configured_files.read(path)
    except OSError as error:
        raise KongConfigError(f"{path}: {reason_of(error)}") from None
    return parse_declarative(content, str(path), check)


def parse_declarative(content: bytes, name: str, check: Check = unchecked) -> KongConfig:
    """Parse the content of a declarative file; `name` is the file's name in errors. Raises `KongConfigError`."""
    document = parse_document(content, name)
    if not isinstance(document.root, dict):
        raise document.error((), "is not a Kong configuration: _format_version: required field missing")
    version = _format_version(document)
    _check_kinds(document)
    return _Assembly(document, version, check).config()


def from_admin_api(
    services: list[dict[str, Any]],
    routes: list[dict[str, Any]],
    plugins: list[dict[str, Any]],
    consumers: list[dict[str, Any]],
    *,
    version: str = "3.0",
    flavor: Flavor = "traditional",
    check: Check = unchecked,
    **groups: list[dict[str, Any]],
) -> KongConfig:
    """The configuration from the Admin API's lists (the `data` of all pages). Raises `KongConfigError`.

    `version` "2.1" is for a Kong before 3.0, where regular expressions in paths have no `~`. `flavor` is the router's.
    `groups` are the `consumer_groups` with their `consumers`, if this Kong has any.
    """
    root = {"services": services, "routes": routes, "plugins": plugins, "consumers": consumers, **groups}
    return replace(_Assembly(without_lines("Admin API", root), version, check).config(), flavor=flavor)


def _format_version(document: Document) -> str:
    version = document.root.get("_format_version")
    if isinstance(version, float):
        version = str(version)  # written without quotes
    if version is None:
        raise document.error((), "_format_version: required field missing")
    if version not in VERSIONS:
        raise document.error(("_format_version",), f"_format_version: expected one of: {', '.join(VERSIONS)}")
    return str(version)


def _check_kinds(document: Document) -> None:
    """Raise an error for a misspelt kind. Other kinds are ignored: Kong has more, and plugins add others."""
    for key in document.root:
        meant = closest(key, NESTED, cutoff=0.85)
        if meant is not None and key not in NESTED:
            raise document.error((key,), f"{key}: unknown field; did you mean {meant}?")


class _Assembly:
    """Turns one document into a `KongConfig`."""

    def __init__(self, document: Document, version: str, check: Check) -> None:
        self._document = document
        self._version = version
        self._check = check
        self._not_understood: list[KongConfigError] = []
        self._drafts: dict[str, list[Draft]] = {kind: [] for kind in NESTED}
        self._known: dict[tuple[str, str, str], Draft] = {}

    def config(self) -> KongConfig:
        for kind in NESTED:
            self._lay_out(self._document.root, kind, (), "", {})
        for kind, drafts in self._drafts.items():
            for draft in drafts:
                self._complete(kind, draft)
        services = {draft.id: self._entity(Service, draft) for draft in self._drafts["services"]}
        routes = [self._route(draft, services) for draft in self._drafts["routes"]]
        groups = self._groups_by_consumer()
        consumers = [
            self._entity(Consumer, draft, group_ids=groups.get(draft.id, ())) for draft in self._drafts["consumers"]
        ]
        plugins = list(self._plugins({group for ids in groups.values() for group in ids}))
        if self._not_understood and depend_on_routes(plugins):
            raise self._not_understood[0]
        return KongConfig(
            tuple(services.values()),
            tuple(routes),
            tuple(consumers),
            tuple(plugins),
            self._version,
            tuple(map(str, self._not_understood)),
        )

    # --- flattening

    def _lay_out(self, holder: Mapping[str, Any], kind: str, path: Path, label: str, parents: dict[str, Draft]) -> None:
        listed = holder.get(kind)
        if listed is None or listed == {}:  # Kong does not distinguish an empty map from an empty list
            return
        if not isinstance(listed, list):
            raise self._document.error((*path, kind), f"{label}{kind}: expected an array")
        for position, fields in enumerate(listed):
            place = (*path, kind, position)
            if not isinstance(fields, dict):
                raise self._document.error(place, f"{label}{kind}[{position}]: expected a record")
            draft = Draft(kind, fields, place, _labelled(label, kind, position, fields), parents)
            self._drafts[kind].append(draft)
            # only the innermost parent counts: a plugin of a service's route is for the route, as in Kong
            inside = {kind.removesuffix("s"): draft}
            for nested in NESTED[kind]:
                self._lay_out(fields, nested, place, f"{draft.label} > ", inside)

    # --- completing

    def _complete(self, kind: str, draft: Draft) -> None:
        """Set defaults, references and id; the kinds it refers to must be complete."""
        defaults = self._given("_info", "defaults", kind.removesuffix("s"))
        draft.fields = {**defaults, **draft.fields}
        for name in _REFERENCES[kind]:
            target = self._referred(draft, name) if _is_read(draft, name) else None
            if target is not None:
                draft.references[name] = target
        if kind == "plugins" and isinstance(draft.fields.get("_config"), str):
            draft.fields["config"] = self._shared_config(draft)
        if kind == "routes" and self._version != "3.0" and isinstance(draft.fields.get("paths"), list):
            draft.fields["paths"] = [_migrated(path) for path in draft.fields["paths"]]
        draft.id = self._id(draft)
        self._register(draft)

    def _given(self, *keys: str) -> dict[str, Any]:
        """The mapping at this place of the document; empty if there is none."""
        value = self._document.root
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def _referred(self, draft: Draft, name: str) -> Draft | None:
        """The target of the field `name`, given as name, id, `{id: ...}` or `{name: ...}`; else the parent."""
        parent = draft.parents.get(name)
        given = draft.fields.get(name)
        if given is None:
            return parent
        found = self._found(f"{name}s", given, lambda reason: self._error(draft, reason, name))
        if parent is not None and found is not parent:
            raise self._error(draft, f"{name}: is already set by nesting", name)
        return found

    def _found(self, kind: str, given: object, error: Callable[[str], KongConfigError]) -> Draft:
        """The entity that `given` refers to. If there is none, raises the exception that `error` returns."""
        name, keys = kind.removesuffix("s"), ("id", _NAMES[kind])
        wanted = {key: given.get(key) for key in keys} if isinstance(given, dict) else dict.fromkeys(keys, given)
        texts = {key: value for key, value in wanted.items() if isinstance(value, str)}
        if not texts:
            raise error(f"{name}: expected a {keys[1]} or an id")
        for key, text in texts.items():
            found = self._known.get((kind, key, text))
            if found is not None:
                return found
        raise error(f"invalid reference '{name}: {next(iter(texts.values()))}' (no such entry in '{kind}')")

    def _shared_config(self, draft: Draft) -> dict[str, Any]:
        """decK's `_config`: the name of an entry of `_plugin_configs`, overridden by the plugin's own `config`."""
        name = draft.fields["_config"]
        if name not in self._given("_plugin_configs"):
            raise self._error(draft, f"_config: no such entry in '_plugin_configs': {name!r}", "_config")
        own = draft.fields.get("config")
        return {**self._given("_plugin_configs", name), **(own if isinstance(own, dict) else {})}

    def _id(self, draft: Draft) -> str:
        """The given id, else the one that Kong derives from the name, else one derived from the scope or the place."""
        given = draft.fields.get("id")
        if given is not None:
            return given if isinstance(given, str) else ""
        namespace = uuid.uuid5(_NAMESPACE, draft.kind)
        name = draft.fields.get(_NAMES[draft.kind])
        place = ".".join(str(step) for step in draft.path)
        if draft.kind != "plugins":
            return str(uuid.uuid5(namespace, name if isinstance(name, str) else place))
        scope = [name, draft.fields.get("instance_name")]
        scope += [draft.references[key].id if key in draft.references else None for key in _REFERENCES["plugins"]]
        scope = scope if scope[-1] else scope[:-1]  # keeps the ids of plugins without a group as in earlier releases
        derived = str(uuid.uuid5(namespace, ":".join(str(part or "") for part in scope)))
        return derived if ("plugins", "id", derived) not in self._known else str(uuid.uuid5(namespace, place))

    def _register(self, draft: Draft) -> None:
        """Let others refer to it. Raises `KongConfigError` if its id or name is already taken."""
        for key in _UNIQUE[draft.kind]:
            value = draft.id if key == "id" else draft.fields.get(key)
            if not isinstance(value, str):
                continue
            if (draft.kind, key, value) in self._known:
                shown = "primary key" if key == "id" else key
                reason = f"uniqueness violation: '{draft.kind}' entity with {shown} set to '{value}' already declared"
                raise self._error(draft, reason, key)
            self._known[draft.kind, key, value] = draft

    # --- entities

    def _entity[Kind: Entity](self, model: type[Kind], draft: Draft, **references: object) -> Kind:
        fields = {**draft.fields, **references}
        fields["id"] = draft.id or fields.get("id")
        for name in draft.fields:
            if (meant := _meant(draft.kind, name)) is not None:
                raise self._error(draft, f"{name}: unknown field; did you mean {meant}?", name)
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            where, reason = _first_fault(error)
            raise self._error(draft, reason, *(where or (reason.partition(":")[0],))) from None

    def _route(self, draft: Draft, services: Mapping[str, Service]) -> Route:
        """A route. One whose expression is not understood is kept: it only matters if an instance depends on routes."""
        target = draft.references.get("service")
        route = self._entity(Route, draft, service=None if target is None else services[target.id])
        if route.expression is not None and route.is_http:
            try:
                compile_expression(route.expression)
            except ExpressionError as error:
                self._not_understood.append(self._error(draft, f"expression: {error}", "expression"))
        return route

    def _groups_by_consumer(self) -> dict[str, tuple[str, ...]]:
        """The group ids of each consumer id, ordered by the groups' names. A file may list members in three places.

        Empty if no instance is for a group, since decK may leave groups out of a file.
        """
        if not any("consumer_group" in draft.references for draft in self._drafts["plugins"]):
            return {}
        members: set[tuple[str, str]] = set()
        for group in self._drafts["consumer_groups"]:
            members |= {(found.id, group.id) for found in self._listed(group, "consumers", "consumers")}
        for consumer in self._drafts["consumers"]:
            members |= {(consumer.id, found.id) for found in self._listed(consumer, "groups", "consumer_groups")}
        told = self._document.root.get(MEMBERS) or []
        if not isinstance(told, list):
            raise self._document.error((MEMBERS,), f"{MEMBERS}: expected an array")
        for position, entry in enumerate(told):
            members.add(self._membership(position, entry if isinstance(entry, dict) else {}))
        names = {group.id: str(group.fields.get("name")) for group in self._drafts["consumer_groups"]}
        groups: dict[str, tuple[str, ...]] = {}
        for consumer_id, group_id in sorted(members, key=lambda pair: names[pair[1]]):
            groups[consumer_id] = (*groups.get(consumer_id, ()), group_id)
        return groups

    def _listed(self, draft: Draft, field: str, kind: str) -> Iterator[Draft]:
        """The entities that a list in the draft refers to."""
        listed = draft.fields.get(field) or []
        if not isinstance(listed, list):
            raise self._error(draft, f"{field}: expected an array", field)
        for position, given in enumerate(listed):
            yield self._found(kind, given, lambda reason, at=position: self._error(draft, reason, field, at))  # type: ignore[misc]

    def _membership(self, position: int, entry: Mapping[str, Any]) -> tuple[str, str]:
        def error(reason: str) -> KongConfigError:
            return self._document.error((MEMBERS, position), f"{MEMBERS}[{position}]: {reason}")

        consumer = self._found("consumers", entry.get("consumer"), error)
        return consumer.id, self._found("consumer_groups", entry.get("consumer_group"), error).id

    def _plugins(self, known_groups: Collection[str]) -> Iterator[Plugin]:
        """The plugins, except other plugins' entries for consumer groups."""
        entities: list[tuple[Draft, Plugin]] = []
        for draft in self._drafts["plugins"]:
            targets = {name: draft.references.get(name) for name in _REFERENCES["plugins"]}
            ids = {f"{name}_id": None if target is None else target.id for name, target in targets.items()}
            plugin = self._entity(Plugin, draft, **ids)
            if plugin.name in CAPTURING:
                entities.append((draft, self._instance(draft, plugin, known_groups)))
            elif draft.fields.get("consumer_group") is None and "consumer_group" not in draft.parents:
                entities.append((draft, plugin))
        self._check_scopes(entities)
        return (plugin for _, plugin in entities)

    def _instance(self, draft: Draft, plugin: Plugin, known_groups: Collection[str]) -> Plugin:
        """An instance of ours, with its references to environment variables resolved."""
        for name, instead in _NOT_UNDERSTOOD.items():
            if draft.fields.get(name):
                raise self._error(draft, f"{name}: is not supported; {instead}", name)
        group = plugin.consumer_group_id
        if group is not None and group not in known_groups and self._document.root.get(MEMBERS) is None:
            reason = "has no known consumers; list it in `groups` of its consumers, or scope by consumer"
            raise self._error(draft, f"consumer_group: {reason}", "consumer_group")
        plugin = plugin.model_copy(update={"config": self._resolved(draft, plugin.config, ("config",))})
        if plugin.enabled:
            try:
                self._check(plugin)
            except SettingsError as error:
                raise self._error(draft, str(error), "config", str(error).partition(":")[0]) from None
        return plugin

    def _resolved(self, draft: Draft, value: Any, place: Path) -> Any:
        if isinstance(value, dict):
            return {key: self._resolved(draft, below, (*place, key)) for key, below in value.items()}
        if isinstance(value, list):
            return [self._resolved(draft, below, (*place, at)) for at, below in enumerate(value)]
        try:
            return resolve_reference(value, os.environ) if isinstance(value, str) else value
        except ValueError as error:
            raise self._error(draft, f"{'.'.join(map(str, place))}: {error}", *place) from None

    def _check_scopes(self, entities: Iterable[tuple[Draft, Plugin]]) -> None:
        drafts = {plugin.id: draft for draft, plugin in entities}
        try:
            InstanceTable(plugin for _, plugin in entities if plugin.name in CAPTURING)
        except ScopeConflict as conflict:
            raise self._error(drafts[conflict.instance.id], str(conflict)) from None

    def _error(self, draft: Draft, reason: str, *at: str | int) -> KongConfigError:
        return self._document.error((*draft.path, *at), f"{draft.label}: {reason}")


def _is_read(draft: Draft, reference: str) -> bool:
    """Whether a reference must be resolved. decK may leave out consumer groups that only other plugins use."""
    return reference != "consumer_group" or draft.fields.get("name") in tuple(CAPTURING)


@lru_cache(maxsize=4096)
def _meant(kind: str, name: str) -> str | None:
    """The known field that a misspelt one resembles; None if there is none."""
    known = _NARROWING.get(kind, ())
    return None if name in known or name.startswith("_") else closest(name, known, cutoff=0.85)


def _labelled(holder: str, kind: str, position: int, fields: Mapping[str, Any]) -> str:
    name = fields.get(_NAMES[kind])
    shown = f' "{name}"' if isinstance(name, str) else ""
    return f"{holder}{kind}[{position}]{shown}"


def _first_fault(error: ValidationError) -> tuple[Path, str]:
    """The place of the first error in the entity, and the reason without the value."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = tuple(step for step in fault["loc"] if step != "[key]")
    field_name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where).lstrip(".")
    reason = in_kongs_words(fault)
    return where, f"{field_name}: {reason}" if field_name else reason


def _migrated(path: object) -> object:
    """Convert a path from a format before 3.0, where its characters show whether it is a regular expression, to 3.0."""
    if not isinstance(path, str) or path.startswith("~/"):
        return path
    if _PLAIN_PATH.fullmatch(path):
        return exact_text(normalize(from_text(path)))
    return "~" + exact_text(_ENCODED.sub(_decoded_for_expression, from_text(path)))


def _decoded_for_expression(found: re.Match[bytes]) -> bytes:
    octet = int(found[1], 16)
    if octet in RESERVED:
        return found[0].upper()
    decoded = bytes((octet,))
    return b"\\" + decoded if octet in _MEANS_SOMETHING else decoded
