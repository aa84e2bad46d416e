"""Kong's constraints between plugin entities, in Kong's own words: the same for files and for the Admin API.

A violation is told as Kong's Admin API tells it: a text that shows keys in Lua's form, and the fields it is about.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PLUGIN_NAME = "moesif"

OPTIONS_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "mitmproxy-moesif:global"))
"""The id of the options, seen as a plugin: the same on every start, so that a curl line with it goes on working."""

type Key = Mapping[str, str | Mapping[str, str] | None]
"""Fields that together may be there once, or name an entity."""


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
    """What pydantic has found wrong with an entity's field; shows no value."""
    if fault["type"] == "literal_error":
        return f"expected one of: {fault['ctx']['expected']}"
    return _REASONS.get(fault["type"], fault["msg"].removeprefix("Value error, "))


def reference(entity_id: str | None) -> dict[str, str] | None:
    """How an entity shows another one that it is for."""
    return None if entity_id is None else {"id": entity_id}


def scope_key(
    name: str, service: str | None, route: str | None, consumer: str | None, consumer_group: str | None = None
) -> Key:
    """What two instances of a plugin must differ in: the ids of what they are for."""
    key = {"consumer": reference(consumer), "name": name, "route": reference(route), "service": reference(service)}
    return key if consumer_group is None else {**key, "consumer_group": reference(consumer_group)}


def unique_violation(key: Key) -> str:
    """Another entity has this key."""
    return f"UNIQUE violation detected on '{in_lua(key)}'"


def foreign_key_violation(key: Key, kind: str) -> str:
    """No entity of `kind` (`services`) has this id."""
    return f"the foreign key '{in_lua(key)}' does not reference an existing '{kind}' entity."


def foreign_key_unresolved(key: Key, kind: str) -> str:
    """No entity of `kind` has this name."""
    return f"the foreign key cannot be resolved with '{in_lua(key)}' for an existing '{kind}' entity"


def in_lua(value: object) -> str:
    """`{consumer=null,name="moesif"}`."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}={in_lua(below)}" for name, below in sorted(value.items())) + "}"
    return "null" if value is None else f'"{value}"'
