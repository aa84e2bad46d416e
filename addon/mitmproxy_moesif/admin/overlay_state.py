"""Overlay made through the Admin API as the state file keeps them: without secrets, but with the names of those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mitmproxy_moesif.admin.redact import is_secret
from mitmproxy_moesif.kong.overlay import LivePlugin, Overlay

SECRETS = "secrets"
"""The field that names parameters which were given, and are not kept."""


def kept_changes(changes: Overlay) -> dict[str, dict[str, Any]]:
    """`plugins`: fields of entries that were changed; `created`: entries that were added; both by id."""
    return {
        "plugins": {id_: _kept(patch, patch.get("config", {})) for id_, patch in changes.patches.items()},
        "created": {id_: _kept_entity(plugin) for id_, plugin in changes.created.items()},
    }


def without_names(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The fields alone."""
    return {name: value for name, value in kept.items() if name != SECRETS}


def _kept_entity(plugin: LivePlugin) -> dict[str, Any]:
    fields = plugin.model_dump(exclude={"id", "name", "config", "changes", "created"}, exclude_none=True)
    return _kept(fields, plugin.changes)


def _kept(fields: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in config.items() if not is_secret(name)}
    secrets = sorted(name for name, value in config.items() if is_secret(name) and value)
    return {**fields, "config": plain, **({SECRETS: secrets} if secrets else {})}
