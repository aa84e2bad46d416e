"""The masked field names, and how a name is compared with them."""

from __future__ import annotations

import re
from typing import Final

_BRACKETS: Final = re.compile(rb"[\[\]]")


class UnmaskableError(ValueError):
    """The text is not certainly of the format in which the masked fields would have to be found."""


class FieldNames:
    """Field names as forms and multipart parts spell them: bytes, compared as UTF-8."""

    __slots__ = ("_beyond_ascii", "_spellings")

    def __init__(self, names: frozenset[str]) -> None:
        self._spellings = frozenset(name.encode("utf-8", "surrogatepass") for name in names)
        self._beyond_ascii = not all(name.isascii() for name in names)

    def holds(self, name: bytes) -> bool:
        """Whether the field of this name is masked: by its whole name or by any part of `user[password][]`.

        A name in some older charset cannot be told apart from a masked one beyond ASCII: `UnmaskableError`.
        """
        if name in self._spellings:
            return True
        if b"[" in name and any(part in self._spellings for part in _BRACKETS.split(name) if part):
            return True
        if self._beyond_ascii and not name.isascii():
            _require_utf8(name)
        return False


def _require_utf8(name: bytes) -> None:
    try:
        name.decode()
    except UnicodeDecodeError as error:
        raise UnmaskableError("a field name of unknown charset") from error
