"""Kong's constraints on plugin entities, worded as Kong words them: the same for files and for the Admin API.

As in Kong's Admin API, a violation has a text with keys in Lua's notation, and the fields concerned.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PLUGIN_NAME = "moesif"

OPTIONS_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "mitmproxy-moesif:global"))
"""The plugin id of the options: the same on every start, so that saved URLs stay valid."""

type Key = Mapping[str, str | Mapping[str, str] | None]
"""Fields that identify an entity, or must be unique together."""


_REASONS = {
    "missing": "required field missing",
    "string_type": "expected a string",
    "string_too_short": "length must be at least 1",
    "int_type": "expected an integer",
    "int_parsing": "expected an integer",
    "bool_type": "expected a boolean",
    "tuple_type": "expected an array",
    "dict_type": "expected a map",
}


def in_kongs_words(fault: ErrorDetails) -> str:
    """The reason why pydantic rejected an entity's field, in Kong's words; without the value."""
    if fault["type"] == "literal_error":
        return f"expected one of: {fault['ctx']['expected']}"
    return _REASONS.get(fault["type"], fault["msg"].removeprefix("Value error, "))


def reference(entity_id: str | None) -> dict[str, str] | None:
    """An entity's reference to another, as in Kong's JSON: `{"id": ...}`, or None."""
    return None if entity_id is None else {"id": entity_id}


def scope_key(
    name: str, service: str | None, route: str | None, consumer: str | None, consumer_group: str | None = None
) -> Key:
    """The key that must be unique among the instances of a plugin: its name, and the ids of its scope."""
    key = {"consumer": reference(consumer), "name": name, "route": reference(route), "service": reference(service)}
    return key if consumer_group is None else {**key, "consumer_group": reference(consumer_group)}


def unique_violation(key: Key) -> str:
    """The message for a key that another entity already has."""
    return f"UNIQUE violation detected on '{in_lua(key)}'"


def foreign_key_violation(key: Key, kind: str) -> str:
    """The message for an id that no entity of `kind` (such as `services`) has."""
    return f"the foreign key '{in_lua(key)}' does not reference an existing '{kind}' entity."


def foreign_key_unresolved(key: Key, kind: str) -> str:
    """The message for a name that no entity of `kind` has."""
    return f"the foreign key cannot be resolved with '{in_lua(key)}' for an existing '{kind}' entity"


def in_lua(value: object) -> str:
    """A value in Lua's notation, such as `{consumer=null,name="moesif"}`."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}={in_lua(below)}" for name, below in sorted(value.items())) + "}"
    return "null" if value is None else f'"{value}"'
