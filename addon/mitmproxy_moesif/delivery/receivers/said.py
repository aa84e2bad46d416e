"""What a collector says of why it does not take a batch, so that it can be shown to people.

Such an answer may quote what was sent, which belongs in no log. So it is cut, and the application id and each word that
stands in a value of the events is replaced.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

LONGEST = 200
"""Characters that are shown."""

READ = 2000
"""Bytes of an answer that are looked at."""

MASK = "*****"

SHORTEST = 3
"""Letters of a word that could be something."""

MOST_FOUND = 1000
"""Places of a word in what was sent that are looked at."""

PLAIN = frozenset(
    """
    and are array batch body cannot compressed content error event events expected failed field for format found
    from has header headers invalid json large length limit long malformed many maximum missing must not null number
    object parse payload property request required response schema should size status string than that the time too
    type unknown unsupported value was with
    """.split()  # noqa: SIM905 - a list of so many words would be a page
)
"""Words of such answers that tell of nobody."""

_MESSAGES = ("message", "error_description", "detail", "error", "errors", "reason", "title")
_TAG = re.compile(r"<(?:script|style)\b.{0,500}?</|<[^<>]{0,200}>", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"""[^\s"'`,;:=(){}\[\]<>]+""")


def reason(answer: bytes, sent: bytes, secret: str) -> str:
    """One line of what the answer says, empty where it says nothing. `sent` is the events' JSON."""
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
    """The first of the usual members that says something; else all of it."""
    if isinstance(document, dict):
        for name in _MESSAGES:
            if document.get(name):
                return _message(document[name])
    return document if isinstance(document, str) else orjson.dumps(document).decode()


def _is_value(word: str, sent: bytes) -> bool:
    """Whether it stands in a value of what was sent. Names of members are everybody's, and say what is wrong."""
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
