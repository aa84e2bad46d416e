"""Services, routes and consumers of Kong's configuration as Kong's Admin API shows them, and the schemas of all kinds.

Both are made from the models in kong/entities.py and from the parameters in config/settings.py. Other fields of Kong's
are not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from mitmproxy_moesif.admin.parameters import PROTOCOLS, in_config
from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.kong.entities import Consumer, Entity, Route, Service
from mitmproxy_moesif.kong.errors import reference

MODELS: Mapping[str, type[Entity]] = {"services": Service, "routes": Route, "consumers": Consumer}
"""The supported kinds."""

NONE_HERE = (
    "acls",
    "basic-auths",
    "ca_certificates",
    "certificates",
    "consumer_groups",
    "hmac-auths",
    "jwts",
    "key-auths",
    "key-sets",
    "keys",
    "oauth2",
    "snis",
    "upstreams",
    "vaults",
)
"""Unsupported kinds: clients that list all of Kong's get empty lists."""

_HIDDEN = frozenset(("group_ids",))
_FLAVORED = ("expression", "priority")
"""Fields that Kong has only in the flavour `expressions`."""


def shown(entity: Entity, began: int) -> dict[str, Any]:
    """An entity in Kong's format; `began` is used as the time of entities that have none."""
    fields = {name: _plain(value) for name, value in dict(entity).items() if name not in _HIDDEN}
    if fields.get("expression") is None:
        fields = {name: value for name, value in fields.items() if name not in _FLAVORED}
    created = began if entity.created_at is None else entity.created_at
    return {**fields, "created_at": created, "updated_at": entity.updated_at or created}


def _plain(value: Any) -> Any:
    match value:
        case Entity():
            return reference(value.id)
        case tuple():
            return list(value) or None
        case dict():
            return {name: list(values) for name, values in value.items()} or None
    return value


def plugin_schema() -> dict[str, Any]:
    """The schema of our plugin. The scope by consumer is an addition: the Lua plugin's schema forbids it."""
    parameters = [field for field in fields_of(Settings) if all(map(in_config, field))]
    elements = {"type": "string", "one_of": list(PROTOCOLS)}
    return {
        "entity_checks": [],
        "fields": [
            {"consumer": {"type": "foreign", "reference": "consumers", "description": "A scope of this addon's own."}},
            {"protocols": {"type": "set", "required": True, "default": list(PROTOCOLS), "elements": elements}},
            {"config": {"type": "record", "required": True, "fields": parameters}},
        ],
    }


def schema(kind: str) -> dict[str, Any] | None:
    """The schema of a kind of entities; None if unsupported."""
    model = MODELS.get(kind)
    return None if model is None else {"entity_checks": [], "fields": list(fields_of(model))}


def fields_of(model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """The fields of a model in the format of Kong's schemas, made from its JSON schema."""
    described = model.model_json_schema()
    for name, given in described["properties"].items():
        if name in _HIDDEN:
            continue
        if name == "service":
            yield {name: {"type": "foreign", "reference": "services"}}
            continue
        yield {name: _field(given, described.get("$defs", {}))}


_TYPES = {"array": "array", "object": "map", "boolean": "boolean", "integer": "integer", "string": "string"}


def _field(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    given = _resolved(given, known)
    made: dict[str, Any] = {"type": _TYPES.get(given.get("type", ""), "any")}
    if "description" in given:
        made["description"] = given["description"]
    if "enum" in given:
        made["one_of"] = given["enum"]
    if (most := given.get("maximum", given.get("exclusiveMaximum", 0) - 1)) >= 0:
        made["between"] = [max(given.get("minimum", 0), given.get("exclusiveMinimum", -1) + 1), most]
    if made["type"] == "array":
        made["elements"] = _field(given.get("items", {}), known)
    if made["type"] == "map":
        made |= {"keys": {"type": "string"}, "values": _field(given.get("additionalProperties", {}), known)}
    if given.get("writeOnly"):
        made["encrypted"] = True
    elif given.get("default") is not None:
        made |= {"default": given["default"], "required": True}
    return made


def _resolved(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema with its reference, or its type that is not null, merged in; its own properties win."""
    if "$ref" in given:
        below = known[given["$ref"].rpartition("/")[2]]
    elif "anyOf" in given:
        below = next(option for option in given["anyOf"] if option.get("type") != "null")
    else:
        return dict(given)
    return _resolved(
        {**below, **{name: value for name, value in given.items() if name not in ("$ref", "anyOf")}}, known
    )
