"""A collector's reason for refusing a batch, made safe to log.

Such a response may quote the events, which must not appear in a log. So it is truncated, and the application id and
each word that occurs in a value of the events is replaced.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

LONGEST = 200
"""Characters of a reason that are logged."""

READ = 2000
"""Bytes of a response that are read."""

MASK = "*****"

SHORTEST = 3
"""Minimum length of a word that could be a value."""

MOST_FOUND = 1000
"""Occurrences of a word in the events that are checked."""

PLAIN = frozenset(
    """
    and are array batch body cannot compressed content error event events expected failed field for format found
    from has header headers invalid json large length limit long malformed many maximum missing must not null number
    object parse payload property request required response schema should size status string than that the time too
    type unknown unsupported value was with
    """.split()  # noqa: SIM905 - a list of so many words would be a page
)
"""Common words of such responses, which are never replaced."""

_MESSAGES = ("message", "error_description", "detail", "error", "errors", "reason", "title")
_TAG = re.compile(r"<(?:script|style)\b.{0,500}?</|<[^<>]{0,200}>", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"""[^\s"'`,;:=(){}\[\]<>]+""")


def reason(answer: bytes, sent: bytes, secret: str) -> str:
    """The reason in a response, as one line; empty if there is none. `sent` is the events' JSON."""
    text = _text(answer[:READ]).replace(secret, MASK) if secret else _text(answer[:READ])
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())[: 2 * LONGEST]
    line = _WORD.sub(lambda word: MASK if _is_value(word[0], sent) else word[0], line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _text(answer: bytes) -> str:
    try:
        return _message(orjson.loads(answer))
    except orjson.JSONDecodeError:
        return _TAG.sub(" ", answer.decode(errors="replace"))


def _message(document: Any) -> str:
    """The first non-empty one of the usual members; else the whole document."""
    if isinstance(document, dict):
        for name in _MESSAGES:
            if document.get(name):
                return _message(document[name])
    return document if isinstance(document, str) else orjson.dumps(document).decode()


def _is_value(word: str, sent: bytes) -> bool:
    """Whether a word occurs in a value of the events. Names of members are not secret, and tell what is wrong."""
    if len(word) < SHORTEST or word.lower() in PLAIN:
        return False
    said, at = word.encode(errors="replace"), -1
    for _ in range(MOST_FOUND):
        if (at := sent.find(said, at + 1)) < 0:
            return False
        before, after = sent[at - 1 : at], sent[at + len(said) : at + len(said) + 2]
        if not before.isalnum() and not after[:1].isalnum() and (before, after) != (b'"', b'":'):
            return True
    return True
