"""A Kong configuration as it was read, JSON or YAML, in which every value knows its line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mitmproxy_moesif.config import document
from mitmproxy_moesif.config.document import Path
from mitmproxy_moesif.config.fields import UNFIT
from mitmproxy_moesif.kong.placeholders import fill_in


class KongConfigError(ValueError):
    """A Kong configuration that cannot be taken: one line with file, line, entity and reason."""


class Document:
    """The root value of a file. `name` is how errors call the file."""

    def __init__(self, name: str, parsed: document.Document) -> None:
        self.root = parsed.root
        self._name = name
        self._line_of = parsed.line_of

    def error(self, path: Path, reason: str) -> KongConfigError:
        """The error for the value at `path`, or for the nearest one around it that exists."""
        return _error(self._name, self._line_of(path), reason)


def without_lines(name: str, root: Any) -> Document:
    """A document from values that came otherwise than from a file: an Admin API's answers."""
    return Document(name, document.Document(root))


def parse_document(content: bytes, name: str, environ: Mapping[str, str] = os.environ) -> Document:
    """The document in `content`, JSON or YAML, placeholders filled in. Raises `KongConfigError`."""
    try:
        return Document(name, document.parse_document(fill_in(content, environ), as_kong=True))
    except document.DocumentError as error:
        raise _error(name, error.line, str(error)) from None


def _error(name: str, line: int | None, reason: str) -> KongConfigError:
    reason = UNFIT.sub(lambda found: f"\\x{ord(found[0]):02x}", reason)  # of names, which are quoted as they are
    return KongConfigError(f"{name}: {reason}" if line is None else f"{name}:{line}: {reason}")
