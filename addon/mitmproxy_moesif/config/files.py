"""Reads configuration files, and remembers their content when it was last applied.

If a worker restarts while a file is half-edited, or Kong's Admin API is unavailable, its supervisor gives it the
content last applied, which the worker reads in place of the files until it has started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

type Told = Callable[[str, bytes], None]


class Files:
    """The configuration files of one process. Other sources have a name too, such as their URL."""

    def __init__(self) -> None:
        self._kept: Mapping[str, bytes] = {}
        self._read: dict[str, bytes] = {}
        self._told: Told | None = None

    def begin(self, kept: Mapping[str, bytes], told: Told) -> None:
        """Read `kept` in place of files until `started`; `told` is called with content to keep, from any thread."""
        self._kept, self._told = kept, told

    def started(self) -> None:
        self._kept = {}

    def read(self, name: str | Path) -> bytes:
        """Raises `OSError`."""
        return self.get(name, lambda: Path(name).read_bytes())

    def get(self, name: str | Path, read: Callable[[], bytes]) -> bytes:
        """The content kept under this name, else the result of `read`."""
        content = self._kept.get(str(name))
        if content is None:
            content = read()
        self._read[str(name)] = content
        return content

    def in_force(self, name: str | Path) -> bytes | None:
        """Keep the content read under this name, as it was applied. Returns it, or None if it is already kept."""
        content = self._read.pop(str(name), None)
        if content is not None and self._told is not None:
            self._told(str(name), content)
        return content


def expanded(path: str | Path) -> Path:
    """With a home folder in place of `~` or `~name`. Where there is none the path is as it was, as in a shell, and who
    opens it says that it is not there."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically, readable only by its owner. Raises `OSError`."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


configured_files = Files()
"""The configuration files of this process."""
