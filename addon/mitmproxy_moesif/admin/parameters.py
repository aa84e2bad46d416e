"""The parameters of settings.py as the `config` of a plugin entity: which are shown, and which changes are allowed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from mitmproxy_moesif.admin.redact import SHOWN
from mitmproxy_moesif.admin.source import SchemaViolation
from mitmproxy_moesif.config.fields import Property, parameters_with
from mitmproxy_moesif.config.settings import START_ONLY, Settings, SettingsError, parse_settings

TOP_LEVEL = "enabled"
"""The only parameter that is a field of Kong's entity itself, not of its `config`."""

PROTOCOLS = ("grpc", "grpcs", "http", "https")
"""Kong's default for instances without `protocols`."""

FIXED = parameters_with(Settings, Property.FILE, Property.START_ONLY, Property.LOCAL)
"""Parameters that a client cannot change.

Among them are files, since a client could otherwise run code from them, or write them anywhere.
"""

HIDDEN_PREFIX = "admin_"
"""The listener's own parameters are never shown to its clients."""

TIMES = ("created_at", "updated_at")
"""Fields of an entity that are ignored in changes."""

UNKNOWN = "unknown field"
IMMUTABLE = "immutable field cannot be updated"
REQUIRED = "required field missing"


_EXPECTED: Mapping[str, tuple[str, Any]] = {
    **dict.fromkeys(("id", "name", "instance_name"), ("a string", str)),
    **dict.fromkeys(("config", "service", "route", "consumer", "consumer_group"), ("a record", Mapping)),
    **dict.fromkeys(("tags", "protocols"), ("a set", list | tuple | str)),  # str: a single item from a form
    **dict.fromkeys(("created_at", "updated_at"), ("an integer", int)),
}


def shown_config(settings: Settings, prefix: str = "") -> dict[str, Any]:
    """All parameters as plain values, without secrets; for a plugin with a `prefix`, its own without the prefix."""
    return {
        name.removeprefix(prefix): _shown(_value(settings, name))
        for name in Settings.model_fields
        if in_config(name) and name.startswith(prefix)
    }


def wanted_of_plugin(
    prefix: str,
    given: Mapping[str, Any],
    changes: Mapping[str, Any],
    faults: Mapping[str, Any],
    *,
    same_too: bool = False,
) -> dict[str, Any]:
    """Like `wanted_parameters`, for a plugin whose parameters have a `prefix` in settings.py."""
    config = changes.get("config")
    if prefix and isinstance(config, Mapping):
        changes = {**changes, "config": {prefix + name: value for name, value in config.items()}}
    try:
        wanted = wanted_parameters(given, changes, faults, same_too=same_too)
    except SchemaViolation as error:
        if isinstance(config := error.fields.get("config"), Mapping):
            fields = {name.removeprefix(prefix): fault for name, fault in config.items()}
            raise SchemaViolation({**error.fields, "config": fields}) from None
        raise
    return {name.removeprefix(prefix): value for name, value in wanted.items()}


def wanted_parameters(
    given: Mapping[str, Any],
    changes: Mapping[str, Any],
    faults: Mapping[str, Any],
    *,
    same_too: bool = False,
) -> dict[str, Any]:
    """The parameters to change, as plain values. `given`: those currently set, by whatever source.

    Of `changes`, an entity's fields, only `config` and `enabled` are used; null in `config` means the parameter's
    default. `faults`: errors found elsewhere. `same_too`: include parameters whose value does not change. Raises
    `SchemaViolation` for `faults` and all errors found here, and for fields of a wrong type.
    """
    config = changes.get("config", {})
    faults = {**faults, **dict(_misfits(changes))}
    if not isinstance(config, Mapping):
        raise SchemaViolation(faults)
    current = _parsed(given, {})[0]
    config_faults = {name: fault for name in config if (fault := _fault(current, name, config[name]))}
    wanted = {name: config[name] for name in config if name not in config_faults}
    if TOP_LEVEL in changes and TOP_LEVEL not in faults:
        wanted[TOP_LEVEL] = changes[TOP_LEVEL]
    wanted = {name: _default(name) if value is None else value for name, value in wanted.items()}
    updated, more = _parsed(given, wanted)
    found = {**faults, **_merged(more, config_faults)}
    if found or updated is None:
        raise SchemaViolation(found)
    values = {name: _value(updated, name) for name in wanted if name not in FIXED}
    same = current if not same_too else None
    return {name: _plain(value) for name, value in values.items() if same is None or value != _value(same, name)}


def given_values(settings: Settings) -> dict[str, Any]:
    """The parameters that were given, with their values."""
    return {name: _value(settings, name) for name in settings.model_fields_set}


def faults_by_field(text: str, names: Collection[str]) -> dict[str, Any]:
    """Convert `name: reason; name: reason` to Kong's format; errors without a parameter concern the entity."""
    known = "|".join(map(re.escape, names)) or r"(?!)"
    parts = re.split(rf"; (?=(?:{known}): )", text)
    fields: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for part in parts:
        name, _, reason = part.partition(": ")
        if name not in names:
            fields.setdefault("@entity", []).append(part)
        elif name == TOP_LEVEL:
            fields[name] = reason
        else:
            config[name] = reason
    return {**fields, "config": config} if config else fields


def _misfits(entity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Errors for fields of a wrong type; their values are checked elsewhere."""
    for name, value in entity.items():
        what, types = _EXPECTED.get(name, ("anything", object))
        if value is None and name in ("config", TOP_LEVEL):
            yield name, REQUIRED
        elif value is not None and (not isinstance(value, types) or (types is int and isinstance(value, bool))):
            yield name, f"expected {what}"


def _fault(current: Settings | None, name: str, value: object) -> str | None:
    if name not in Settings.model_fields or not in_config(name):
        return UNKNOWN
    if name in FIXED and (current is None or value != _shown(_value(current, name))):
        at_start = name in START_ONLY
        return "can only be set at the start" if at_start else "can only be set with the options"
    return None


def entity_faults(entity: Mapping[str, Any], given: Mapping[str, Any], changeable: Collection[str]) -> dict[str, str]:
    """Errors for fields that are not `changeable`, unless they are sent back unchanged; empty equals null."""
    return {
        name: IMMUTABLE if name in entity else UNKNOWN
        for name, value in given.items()
        if name not in changeable
        and name not in TIMES
        and not (name in entity and (None if value in ("", [], {}) else value) == entity[name])
    }


def in_config(name: str) -> bool:
    """Whether a parameter is shown in the `config` of an entity."""
    return name != TOP_LEVEL and not name.startswith(HIDDEN_PREFIX)


def _value(settings: Settings, name: str) -> Any:
    return settings.__dict__[name]  # attribute access would warn for deprecated parameters


def _default(name: str) -> Any:
    return Settings.model_fields[name].default


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return SHOWN if value.get_secret_value() else None
    return _plain(value)


def _parsed(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Settings | None, dict[str, Any]]:
    """The resulting settings, or errors by field."""
    try:
        return parse_settings({**given, **wanted}), {}
    except SettingsError as error:
        return None, faults_by_field(str(error), {**given, **wanted})


def _merged(fields: dict[str, Any], config: dict[str, str]) -> dict[str, Any]:
    """`fields` with more errors in `config`."""
    return {**fields, "config": {**fields.get("config", {}), **config}} if config else fields
