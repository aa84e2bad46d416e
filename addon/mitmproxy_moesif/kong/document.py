"""A parsed Kong configuration, JSON or YAML, which knows the line of each value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mitmproxy_moesif.config import document
from mitmproxy_moesif.config.document import Path
from mitmproxy_moesif.config.fields import UNFIT
from mitmproxy_moesif.kong.placeholders import fill_in


class KongConfigError(ValueError):
    """A Kong configuration is invalid or cannot be read. The text is one line with file, line, entity and reason."""


class Document:
    """The root value of a file. `name` is the file's name in errors."""

    def __init__(self, name: str, parsed: document.Document) -> None:
        self.root = parsed.root
        self._name = name
        self._line_of = parsed.line_of

    def error(self, path: Path, reason: str) -> KongConfigError:
        """The error for the value at `path`, or for its nearest existing parent."""
        return _error(self._name, self._line_of(path), reason)


def without_lines(name: str, root: Any) -> Document:
    """A document made from values that are not from a file: responses of an Admin API."""
    return Document(name, document.Document(root))


def parse_document(content: bytes, name: str, environ: Mapping[str, str] = os.environ) -> Document:
    """Parse `content`, JSON or YAML, with placeholders filled in. Raises `KongConfigError`."""
    try:
        return Document(name, document.parse_document(fill_in(content, environ), as_kong=True))
    except document.DocumentError as error:
        raise _error(name, error.line, str(error)) from None


def _error(name: str, line: int | None, reason: str) -> KongConfigError:
    reason = UNFIT.sub(lambda found: f"\\x{ord(found[0]):02x}", reason)  # in names, which are quoted verbatim
    return KongConfigError(f"{name}: {reason}" if line is None else f"{name}:{line}: {reason}")
