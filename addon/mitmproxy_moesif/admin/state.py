"""The file that keeps changes made through the listener: `{"enabled": false, "config": {"debug": true}}`.

Beside these two, which are about the options, there may be `plugins`, changes of instances from Kong's configuration by
id, and `created`, instances that were added, by id; both as kong_changes.py writes and reads them.

It is replaced as a whole or not at all, and only its owner may read it. Secrets never go in there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import orjson

from mitmproxy_moesif.admin.redact import is_secret
from mitmproxy_moesif.admin.source import NotKept

INSTANCES = ("created", "plugins")


class StateError(ValueError):
    """The file cannot be read, or cannot be what it says; one line that names it."""


class StateFile:
    """The kept changes of the options by parameter name (`enabled` is one of them), and those of other instances."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, Any] = {}
        self.instances: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, Any]:
        """What is kept of the options; nothing where there is no file. Raises `StateError`."""
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
        if unknown := sorted(content.keys() - {"enabled", "config", *INSTANCES}):
            raise StateError(f"admin_state: {self.path}: {unknown[0]}: there is nothing of this name")
        self.instances = {name: content[name] for name in INSTANCES if name in content}
        for name, below in self.instances.items():
            if not isinstance(below, dict) or not all(isinstance(entity, dict) for entity in below.values()):
                raise StateError(f"admin_state: {self.path}: {name}: must be an object of objects")
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
        with self._becoming(kept, self.instances):
            yield

    @contextmanager
    def keeping(self, instances: Mapping[str, dict[str, Any]]) -> Iterator[None]:
        """Keeps `instances` in place of those that are kept, likewise."""
        with self._becoming(self.kept, {name: below for name, below in instances.items() if below}):
            yield

    @contextmanager
    def _becoming(self, kept: dict[str, Any], instances: dict[str, dict[str, Any]]) -> Iterator[None]:
        if (kept, instances) == (self.kept, self.instances):
            yield
            return
        new = self._write(kept, instances)
        try:
            yield
            new.replace(self.path)
            self.kept, self.instances = kept, instances
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)

    def _write(self, kept: Mapping[str, Any], instances: Mapping[str, Any]) -> Path:
        config = {name: value for name, value in sorted(kept.items()) if name != "enabled"}
        content = {"enabled": kept["enabled"]} if "enabled" in kept else {}
        content |= {"config": config, **instances}
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


def put_in_force_and_keep(keeping: AbstractContextManager[None] | None, put_in_force: Callable[[], None]) -> None:
    """Raises `NotKept` where the file is the trouble, and whatever `put_in_force` raises: then nothing is kept."""
    applied = False
    try:
        with keeping or nullcontext():
            put_in_force()
            applied = True
    except OSError as error:
        what = "the change is in force, but lost at the next start" if applied else "nothing was changed"
        raise NotKept(f"admin_state: cannot be written ({error.strerror}): {what}") from None
