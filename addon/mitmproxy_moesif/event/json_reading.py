"""JSON for rules: parsed strictly, with every member of a duplicate name, since upstreams differ in which they use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

_NOT_TEXT = b"\xef\xbb\xbf\xfe\xff\0 \t\r\n"
"""Byte order marks, white space, and the zero bytes of UTF-16 and UTF-32."""


class Repeating(dict[str, Any]):
    """An object with duplicate names: a dictionary with the last value of each; `items` returns all."""

    def __init__(self, members: Sequence[tuple[str, Any]]) -> None:
        super().__init__(members)
        self._members = members

    def items(self) -> Sequence[tuple[str, Any]]:  # type: ignore[override]  # what json.dumps writes
        return self._members


def members(value: object, name: str) -> Iterator[Any]:
    """The values of all members of an object with this name."""
    if isinstance(value, Repeating):
        yield from (member for key, member in value.items() if key == name)
    elif isinstance(value, dict) and name in value:
        yield value[name]


def read_json(content: bytes) -> tuple[Any, bool]:
    """The document, and whether it is unambiguous: no name has two different values in one object.

    Raises `ValueError` for what only some parsers accept: encodings other than UTF-8, a byte order mark, lone
    surrogates, numbers without a finite value, and too deep nesting.
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
    """Whether a parser might take it for an object or an array, whatever its content type."""
    return content.lstrip(_NOT_TEXT)[:1] in (b"{", b"[")
