"""The two documents that Moesif's collector serves, `/v1/config` and `/v1/rules`, each with its tag."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import orjson

from mitmproxy_moesif.config.watch import Stamp, stamp_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Version:
    """A document's current content: JSON, and the tag that changes with it (in quotes, like an ETag)."""

    content: bytes
    tag: str


class Document:
    """A JSON document of one kind (`dict` or `list`) that may change while the collector runs.

    It changes by `put`, or with its file if it has one, which is read again after each change. If that cannot be read,
    or has another kind of JSON, the content remains, with one warning for each change of the file.
    """

    def __init__(self, kind: type[dict[str, object]] | type[list[object]], file: Path | None = None) -> None:
        self._kind = kind
        self._file = file
        self._seen: Stamp = (0, 0, 0)  # matches no file
        self._version = self._checked(orjson.dumps(kind()))

    def put(self, content: bytes) -> None:
        """Replace the document. Raises `ValueError` with one line if `content` is not JSON of its kind."""
        self._version = self._checked(content)

    def current(self) -> Version:
        if self._file is not None:
            self._follow(self._file)
        return self._version

    def _checked(self, content: bytes) -> Version:
        try:
            fits = isinstance(orjson.loads(content), self._kind)
        except orjson.JSONDecodeError:
            fits = False
        if not fits:
            raise ValueError(f"must be a JSON {'object' if self._kind is dict else 'array'}")
        return Version(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def _follow(self, file: Path) -> None:
        stamp = stamp_of(file)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self.put(file.read_bytes())
        except (OSError, ValueError) as error:
            logger.warning("%s: %s; keeping its last content", file, error)
