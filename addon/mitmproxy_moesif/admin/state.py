"""The file that keeps changes made through the listener: `{"enabled": false, "config": {"debug": true}}`.

It is replaced as a whole or not at all, and only its owner may read it. Secrets never go in there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from mitmproxy_moesif.admin.redact import is_secret


class StateError(ValueError):
    """The file cannot be read, or cannot be what it says; one line that names it."""


class StateFile:
    """The kept changes by parameter name (`enabled` is one of them)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """What is kept; nothing where there is no file. Raises `StateError`."""
        try:
            content = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            content = {}
        except OSError as error:
            raise StateError(f"admin_state: {self.path}: {error.strerror}") from None
        except orjson.JSONDecodeError:
            raise StateError(f"admin_state: {self.path}: is not JSON") from None
        if not isinstance(content, dict) or not isinstance(content.get("config", {}), dict):
            raise StateError(f"admin_state: {self.path}: must be an object with an object `config`")
        if unknown := sorted(content.keys() - {"enabled", "config"}):
            raise StateError(f"admin_state: {self.path}: {unknown[0]}: there is nothing of this name")
        self.kept = dict(content.get("config", {}))
        if "enabled" in content:
            self.kept["enabled"] = content["enabled"]
        return self.kept

    @contextmanager
    def adding(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """Keeps `changes` on top of what is kept, where the block succeeds; the file is written before it.

        Raises `OSError` before the block where the file cannot be written, after it where it cannot be replaced.
        """
        kept = {**self.kept, **{name: value for name, value in changes.items() if not is_secret(name)}}
        if kept == self.kept:
            yield
            return
        new = self._write(kept)
        try:
            yield
            new.replace(self.path)
            self.kept = kept
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)

    def _write(self, kept: Mapping[str, Any]) -> Path:
        config = {name: value for name, value in sorted(kept.items()) if name != "enabled"}
        content = {"enabled": kept["enabled"], "config": config} if "enabled" in kept else {"config": config}
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(handle)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        return new
