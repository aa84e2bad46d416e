"""All changes made through the Admin API as one document, and the file that stores it.

    {"enabled": false, "config": {"debug": true}, "plugins": {"ID": {...}}, "created": {"ID": {...}}}

The first two concern the options. `plugins` are changed fields of entries in Kong's configuration, `created` are added
entries, both by id. In memory a document has secrets; the file has only their names. The file is replaced atomically,
and only its owner may read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson

from mitmproxy_moesif.admin.redact import is_secret
from mitmproxy_moesif.admin.source import NotKept
from mitmproxy_moesif.config.files import replace_file

INSTANCES = ("created", "plugins")

SECRETS = "secrets"
"""The field with the names of secret parameters of an entry, whose values are not saved."""

type Document = Mapping[str, Any]


class StateError(ValueError):
    """The document cannot be read or applied; one line with the file's name."""


class Keeper(Protocol):
    """Stores a document."""

    def read(self) -> Document:
        """The document at the start. Raises `StateError`."""

    def write(self, document: Document) -> None:
        """Save a document. Raises `NotKept`; then the previous one is still stored."""


class StateFile:
    """Stores documents in a file, or nowhere without a path."""

    def __init__(self, path: Path | str | None) -> None:
        self._path = Path(path) if path is not None else None
        self._kept: Document = without_secrets({})

    def read(self) -> Document:
        """The file's document, empty if there is no file. Raises `StateError`, also if the folder is not writable."""
        if self._path is None:
            return {}
        try:
            document = _checked(orjson.loads(self._path.read_bytes()))
        except FileNotFoundError:
            document = {}
        except OSError as error:
            raise StateError(f"admin_state: {self._path}: {error.strerror}") from None
        except orjson.JSONDecodeError:
            raise StateError(f"admin_state: {self._path}: is not JSON") from None
        except ValueError as error:
            raise StateError(f"admin_state: {self._path}: {error}") from None
        folder = self._path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            why = "cannot be written to" if folder.exists() else "does not exist"
            raise StateError(f"admin_state: {self._path}: the folder {folder} {why}")
        self._kept = without_secrets(document)
        return document

    def write(self, document: Document) -> None:
        kept = without_secrets(document)
        if self._path is None or kept == self._kept:
            return
        try:
            replace_file(self._path, orjson.dumps(kept, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise NotKept(f"admin_state: cannot be written ({error.strerror}): nothing was changed") from None
        self._kept = kept


def without_secrets(document: Document) -> dict[str, Any]:
    """The document as it is saved."""
    config = {name: value for name, value in sorted(document.get("config", {}).items()) if not is_secret(name)}
    instances = {
        name: {id_: _entry_without_secrets(entry) for id_, entry in document[name].items()}
        for name in reversed(INSTANCES)
        if document.get(name)
    }
    enabled = {"enabled": document["enabled"]} if "enabled" in document else {}
    return {**enabled, "config": config, **instances}


def _entry_without_secrets(entry: Mapping[str, Any]) -> dict[str, Any]:
    config = entry.get("config", {})
    plain = {name: value for name, value in config.items() if not is_secret(name)}
    secrets = sorted(name for name, value in config.items() if is_secret(name) and value)
    return {**entry, "config": plain, **({SECRETS: secrets} if secrets else {})}


def _checked(content: Any) -> Document:
    """Validate a document. Raises `ValueError`."""
    if not isinstance(content, dict) or not isinstance(content.get("config", {}), dict):
        raise ValueError("must be an object with an object `config`")
    if unknown := sorted(content.keys() - {"enabled", "config", *INSTANCES}):
        raise ValueError(f"{unknown[0]}: there is nothing of this name")
    for name in INSTANCES:
        below = content.get(name, {})
        if not isinstance(below, dict) or not all(isinstance(entry, dict) for entry in below.values()):
            raise ValueError(f"{name}: must be an object of objects")
    return content
