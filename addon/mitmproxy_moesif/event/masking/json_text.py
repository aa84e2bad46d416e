"""Whether bytes are a JSON document, judged by orjson, numbers of any size included."""

from __future__ import annotations

import re
from typing import Final

import orjson

# The event puts a body a few levels deeper, and who reads the event is often bounded at orjson's 1024.
MAX_DEPTH: Final = 1000
_SPARE_DEPTH: Final = 1024 - MAX_DEPTH

_CONTAINER: Final = re.compile(rb"[ \t\r\n]*+[{\[]")
STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
# JSON bounds no number, orjson does: above the largest double it refuses. Such a number has 200 digits or an exponent
# of three.
_HUGE: Final = re.compile(rb"(?<![0-9])[0-9]{200}|[0-9][eE]\+?[0-9]{3}")
_STRING_OR_NUMBER: Final = re.compile(
    STRING + rb"|(?<![0-9.eE+-])-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?![0-9.eE+-])", re.DOTALL
)


def begins_like_json(raw: bytes) -> bool:
    """Whether the first non-blank character is `{` or `[`."""
    return raw[:1] in (b"{", b"[") or _CONTAINER.match(raw) is not None


def is_json(raw: bytes) -> bool:
    """Whether `raw` is a JSON object or array in UTF-8, nested no deeper than `MAX_DEPTH`."""
    return begins_like_json(raw) and (_parses(raw) or _parses_without_numbers(raw)) and not _is_too_deep(raw)


def _parses(raw: bytes) -> bool:
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


def _parses_without_numbers(raw: bytes) -> bool:
    """The same judge on the same document with every well-formed number a 0."""
    if _HUGE.search(raw) is None:
        return False
    return _parses(_STRING_OR_NUMBER.sub(lambda token: token[0] if token[0].startswith(b'"') else b"0", raw))


def _is_too_deep(raw: bytes) -> bool:
    if len(raw) <= 2 * MAX_DEPTH or raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    wrapped = b"[" * _SPARE_DEPTH + raw + b"]" * _SPARE_DEPTH
    return not (_parses(wrapped) or _parses_without_numbers(wrapped))
