"""JSON as a rule has to read it: strictly, and with every member, whichever of several an upstream believes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

_NOT_TEXT = b"\xef\xbb\xbf\xfe\xff\0 \t\r\n"
"""Byte order marks, white space, and what UTF-16 and UTF-32 put between characters."""


class Repeating(dict[str, Any]):
    """An object in which a name stands more than once: a dictionary with the last of each, and `items` has all."""

    def __init__(self, members: Sequence[tuple[str, Any]]) -> None:
        super().__init__(members)
        self._members = members

    def items(self) -> Sequence[tuple[str, Any]]:  # type: ignore[override]  # what json.dumps writes
        return self._members


def members(value: object, name: str) -> Iterator[Any]:
    """Every member of an object under this name."""
    if isinstance(value, Repeating):
        yield from (member for key, member in value.items() if key == name)
    elif isinstance(value, dict) and name in value:
        yield value[name]


def read_json(content: bytes) -> tuple[Any, bool]:
    """The document, and whether it is the same one for everybody: no name stands for two values in one object.

    Raises `ValueError` for what only some take for JSON: encodings other than UTF-8, a byte order mark, lone
    surrogates, numbers without a value, nesting that is too deep.
    """
    ambiguous = False

    def read_object(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal ambiguous
        plain = dict(found)
        if len(plain) == len(found):
            return plain
        ambiguous = ambiguous or any(repr(value) != repr(plain[name]) for name, value in found)
        return Repeating(found)

    orjson.loads(content)
    try:
        return json.loads(content.decode(), object_pairs_hook=read_object), not ambiguous
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def looks_like_json(content: bytes) -> bool:
    """Whether somebody may take it for an object or an array, whatever it says that it is."""
    return content.lstrip(_NOT_TEXT)[:1] in (b"{", b"[")
