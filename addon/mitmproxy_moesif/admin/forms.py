"""Parses request bodies of Kong's Admin API: JSON, and forms with dotted names and lists.

`config.debug=true` is a field of a group. A list is `hosts=a&hosts=b`, `hosts[]=a&hosts[]=b` or
`hosts[1]=a&hosts[2]=b`.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import orjson
from tornado.httputil import HTTPFile, HTTPInputError, parse_multipart_form_data

from mitmproxy_moesif.event.masking.media_types import media_type

MAX_FIELDS = 1000
MAX_DEPTH = 16

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
JSON = "application/json"

_NAME = re.compile(r"[^\[\].]+(\[\d{0,9}\])*(\.[^\[\].]+(\[\d{0,9}\])*)*")
_STEP = re.compile(r"\[(\d*)\]|[^\[\].]+")


class _Tree(dict[str | int, "_Tree | list[str]"]):
    """A record has names as keys, a list has numbers; a leaf is the list of its texts."""

    highest = 0
    """The highest number."""


class BodyError(ValueError):
    """A body cannot be parsed; `status` of the response is 400, or 415 for an unsupported type."""

    def __init__(self, reason: str, status: int = 400) -> None:
        self.status = status
        super().__init__(reason)


def parse_body(body: bytes, content_type: str) -> dict[str, Any]:
    """The fields of a body; `{}` if it is empty. Raises `BodyError`."""
    if not body:
        return {}
    kind = media_type(content_type)
    if kind == JSON:
        return _parse_json(body)
    if kind in (URLENCODED, MULTIPART):
        return parse_kong_form(body, content_type)
    raise BodyError(f"Content-Type must be {JSON}, {URLENCODED} or {MULTIPART}", 415)


def parse_kong_form(body: bytes, content_type: str) -> dict[str, Any]:
    """The nested fields of a form; values are texts as given, or lists. Raises `BodyError`.

    A name given several times becomes a list, in the order given. Numbers in brackets only determine the order.
    """
    tree = _Tree()
    for name, value in _pairs(body, content_type):
        _insert(tree, _steps(name), value, name)
    return {str(name): _plain(value) for name, value in tree.items()}


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BodyError("Cannot parse JSON body") from None
    if not isinstance(found, dict) or _is_deep(found):
        raise BodyError("Cannot parse JSON body")
    return found


def _is_deep(content: object) -> bool:
    """Whether anything is nested too deeply; iterative, since it may be too deep for recursion."""
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        holders = [value for value in level if isinstance(value, dict | list)]
        level = [item for holder in holders for item in (holder.values() if isinstance(holder, dict) else holder)]
    return bool(level)


def _pairs(body: bytes, content_type: str) -> list[tuple[str, str]]:
    try:
        if media_type(content_type) == MULTIPART:
            return _multipart(body, content_type)
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except (ValueError, HTTPInputError):  # not UTF-8, too many fields, broken parts
        raise BodyError("Cannot parse form body") from None


def _multipart(body: bytes, content_type: str) -> list[tuple[str, str]]:
    """Fields, then file fields (curl's `-F name=@file`), with the file's content as value."""
    boundary = re.search(r';\s*boundary="?([^";]+)', content_type, re.IGNORECASE)
    if boundary is None:
        raise BodyError("Cannot parse form body")
    arguments: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    parse_multipart_form_data(boundary[1].encode(), body, arguments, files)
    pairs = [(name, value.decode()) for name, values in arguments.items() for value in values]
    pairs += [(name, file["body"].decode()) for name, given in files.items() for file in given]
    if len(pairs) > MAX_FIELDS:
        raise BodyError("Cannot parse form body")
    return pairs


def _steps(name: str) -> list[str | int]:
    """Parse a name: `a.b[2].c[]` is `["a", "b", 2, "c", -1]`; -1 means append. Raises `BodyError`."""
    if not _NAME.fullmatch(name):
        raise BodyError(f"{name[:100]}: not the name of a field")
    steps: list[str | int] = [match[0] if match[1] is None else int(match[1] or -1) for match in _STEP.finditer(name)]
    if len(steps) > MAX_DEPTH:
        raise BodyError(f"{name[:100]}: nested too deep")
    return steps


def _insert(tree: _Tree, steps: list[str | int], value: str, name: str) -> None:
    for step, following in pairwise(steps):
        below = tree.setdefault(_place(tree, step), _Tree())
        first = next(iter(below), following)  # all keys are of the same type
        if not isinstance(below, dict) or isinstance(first, int) != isinstance(following, int):
            raise _both(name)
        tree = below
    last = steps[-1]
    values = tree.setdefault(_place(tree, last), [])
    if isinstance(values, dict):
        raise _both(name)
    if values and isinstance(last, int):
        raise BodyError(f"{name[:100]}: given twice")
    values.append(value)


def _place(tree: _Tree, step: str | int) -> str | int:
    """The key for a step; -1 becomes the number after the highest."""
    if isinstance(step, str):
        return step
    place = step if step != -1 else tree.highest + 1
    tree.highest = max(tree.highest, place)
    return place


def _both(name: str) -> BodyError:
    return BodyError(f"{name[:100]}: given in two forms that exclude each other")


def _plain(tree: _Tree | list[str]) -> Any:
    if isinstance(tree, list):
        return tree[0] if len(tree) == 1 else tree
    if tree and all(isinstance(key, int) for key in tree):
        return [_plain(value) for _, value in sorted(tree.items(), key=lambda item: int(item[0]))]
    return {str(key): _plain(value) for key, value in tree.items()}
