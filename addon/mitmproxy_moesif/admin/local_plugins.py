"""The options as one global plugin instance of Kong's: shown, changed and kept.

All that it knows of parameters is the table in settings.py.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mitmproxy_moesif.admin.redact import SHOWN
from mitmproxy_moesif.admin.source import NotFound, NotKept, SchemaViolation, UniqueViolation
from mitmproxy_moesif.admin.state import StateError, StateFile
from mitmproxy_moesif.kong.entities import Plugin
from mitmproxy_moesif.kong.scopes import MOESIF, ScopeConflict
from mitmproxy_moesif.settings import Settings, SettingsError, parse_settings

PLUGIN_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "mitmproxy-moesif:global"))
"""The same on every start, so that a curl line with it goes on working."""

PROTOCOLS = ("grpc", "grpcs", "http", "https")
TOP_LEVEL = "enabled"
"""The one parameter that is a field of Kong's entity itself, beside `config`."""

_FILES = ("hooks", "rules_file", "sink_file", "spool_dir")
_TRUSTED = ("kong_config", "kong_admin_url", "jwt_key", "jwt_public_key", "jwt_jwks")
FIXED = frozenset((*_FILES, *_TRUSTED, "spool_max_bytes"))
"""Parameters that a client cannot change, whichever of them there are.

Files come first: whoever reaches the listener could have code run from them, or have them written anywhere. Then what
others' trust hangs on, then what only counts at the start.
"""

HIDDEN_PREFIX = "admin_"
"""The listener's own parameters are nobody's business who uses it."""

_UNKNOWN = "unknown field"
_IMMUTABLE = "immutable field cannot be updated"
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
        self._state = StateFile(state) if state is not None else None
        self._fixed = frozenset(fixed)
        self._clock = clock
        self._created_at = self._updated_at = int(clock())
        self._lock = threading.Lock()

    def restore(self) -> list[str]:
        """Apply what the state file keeps; returns the names. Raises `StateError` with one line that names the file."""
        if self._state is None or not (kept := self._state.read()):
            return []
        config = {name: value for name, value in kept.items() if name != TOP_LEVEL}
        given = {"config": config, **({TOP_LEVEL: kept[TOP_LEVEL]} if TOP_LEVEL in kept else {})}
        try:
            self._put_in_force(self._checked(given))
        except SchemaViolation as error:
            raise StateError(f"admin_state: {self._state.path}: {error}") from None
        return sorted(kept)

    def plugins(self) -> list[dict[str, Any]]:
        return [self._entity()]

    def patch_plugin(self, plugin_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        if plugin_id != PLUGIN_ID:
            raise NotFound(plugin_id)
        with self._lock:
            if checked := self._checked(changes):
                self._change(checked)
                self._updated_at = int(self._clock())
            return self._entity()

    def add_plugin(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Never adds: there is one instance, and it is global."""
        name = given.get("name")
        if name is None:
            raise SchemaViolation({"name": "required field missing"})
        if name != MOESIF:
            fault = f"plugin '{str(name)[:100]}' not enabled; add it to the 'plugins' configuration property"
            raise SchemaViolation({"name": fault})
        scoped = {key: "there are no such entities here" for key in ("consumer", "route", "service") if given.get(key)}
        if scoped:
            raise SchemaViolation(scoped)
        self._checked({key: value for key, value in given.items() if key not in _ENTITY_ONLY})
        raise UniqueViolation.of(ScopeConflict(Plugin(id=PLUGIN_ID, name=MOESIF)))

    # --- what is shown -------------------------------------------------------------------------------------------

    def _entity(self) -> dict[str, Any]:
        settings = self._read()
        config = {name: _shown(_value(settings, name)) for name in Settings.model_fields if _in_config(name)}
        return {
            "id": PLUGIN_ID,
            "name": MOESIF,
            "instance_name": MOESIF,
            "enabled": settings.enabled,
            "config": config,
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
        applied = False
        keeping = nullcontext() if self._state is None else self._state.adding(changes)
        try:
            with keeping:
                self._put_in_force(changes)
                applied = True
        except OSError as error:
            what = "the change is in force, but lost at the next start" if applied else "nothing was changed"
            raise NotKept(f"admin_state: cannot be written ({error.strerror}): {what}") from None

    def _put_in_force(self, changes: dict[str, Any]) -> None:
        try:
            self._apply(changes)
        except SettingsError as error:
            raise SchemaViolation(_by_field(str(error), changes)) from None

    def _checked(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that are to become something else, as plain values. Raises `SchemaViolation`."""
        current = self._read()
        faults = dict(self._entity_faults(changes))
        config = changes.get("config") or {}
        if not isinstance(config, Mapping):
            raise SchemaViolation({**faults, "config": "expected a record"})
        config_faults = {name: fault for name in config if (fault := self._fault(current, name, config[name]))}
        wanted = {name: config[name] for name in config if name not in config_faults}
        if TOP_LEVEL in changes:
            wanted[TOP_LEVEL] = changes[TOP_LEVEL]
        wanted = {name: _default(name) if value is None else value for name, value in wanted.items()}
        updated, more = _parsed(current, wanted)
        faults |= _merged(more, config_faults)
        if faults or updated is None:
            raise SchemaViolation(faults)
        names = [name for name in wanted if _value(updated, name) != _value(current, name)]
        return {name: _plain(_value(updated, name)) for name in names}

    def _entity_faults(self, changes: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """A whole entity may be sent back as it was shown; all but `enabled` and `config` must be unchanged then."""
        entity = self._entity()
        for name, value in changes.items():
            if name in _ENTITY_ONLY:
                if (value or None) != entity[name]:
                    yield name, _IMMUTABLE
            elif name not in _TIMES and name not in (TOP_LEVEL, "config"):
                yield name, _UNKNOWN

    def _fault(self, current: Settings, name: str, value: object) -> str | None:
        if name not in Settings.model_fields or not _in_config(name):
            return _UNKNOWN
        if name in self._fixed and value != _shown(_value(current, name)):
            return "can only be set at the start"
        return None


def _in_config(name: str) -> bool:
    return name != TOP_LEVEL and not name.startswith(HIDDEN_PREFIX)


def _value(settings: Settings, name: str) -> Any:
    return settings.__dict__[name]  # the attribute of a deprecated one would warn


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


def _parsed(current: Settings, wanted: Mapping[str, Any]) -> tuple[Settings | None, dict[str, Any]]:
    """The settings as they would be, or what is wrong by field."""
    given = {name: _value(current, name) for name in current.model_fields_set}
    try:
        return parse_settings({**given, **wanted}), {}
    except SettingsError as error:
        return None, _by_field(str(error), wanted)


def _by_field(text: str, names: Collection[str]) -> dict[str, Any]:
    """`name: reason; name: reason` as Kong tells it; what names no parameter is about the entity."""
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


def _merged(fields: dict[str, Any], config: dict[str, str]) -> dict[str, Any]:
    """`fields` with more that is wrong inside `config`."""
    return {**fields, "config": {**fields.get("config", {}), **config}} if config else fields
