"""JSON members removed by name from the text itself.

The document is not parsed into objects and written again: the text of a masked member is cut out and every other byte
stays, so numbers of any size, duplicate keys, key order and white space survive, and no depth is too deep. A masked
key is gone in all its occurrences, also where it is spelled with escapes (`pass\\u0077ord`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import orjson

from mitmproxy_moesif.event.masking.json_text import STRING

_BLANK: Final = b" \t\r\n"
_BLANKS: Final = rb"[ \t\r\n]*+"
_COLON: Final = _BLANKS + rb":"
_AFTER_STRING: Final = tuple(bytes([code]) for code in b",:]} \t\r\n")
_AFTER_KEY: Final = re.compile(_COLON)
_COMMA: Final = re.compile(_BLANKS + rb"," + _BLANKS)
_SCALAR: Final = re.compile(_BLANKS + rb"(?:" + STRING + rb"|[^][{}\",\s]++)", re.DOTALL)
_BRACKET: Final = re.compile(rb'[^][{}"]*+(?:' + STRING + rb'[^][{}"]*+)*+[][{}]', re.DOTALL)
# Characters that JSON spells as an escape always, and those that may be one without being \uXXXX.
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')
_SHORT_ESCAPES: Final = re.compile(r'["\\/\x00-\x1f]')


class JsonMask:
    """The names compiled for JSON text."""

    __slots__ = ("_escape", "_key", "_names", "_needles", "_words")

    def __init__(self, names: frozenset[str]) -> None:
        literal = {name.encode("utf-8", "surrogatepass") for name in names if _ESCAPED.search(name) is None}
        self._names = names
        self._needles = tuple(b'"' + name + b'"' for name in literal)
        self._escape = b"\\" if any(_SHORT_ESCAPES.search(name) for name in names) else b"\\u"
        self._words = not any(name.startswith(_AFTER_STRING) for name in literal)
        self._key = _key_pattern(literal)

    def may_occur(self, raw: bytes) -> bool:
        """False where no key of `raw` can be a masked one. Cheap, and right for text that is not JSON too."""
        return self._escape in raw or any(needle in raw for needle in self._needles)

    def apply(self, raw: bytes) -> bytes:
        """`raw`, which is valid JSON, without the masked members; `raw` itself where there are none."""
        if not self.may_occur(raw):
            return raw
        kept: list[bytes] = []
        start = 0
        plain = self._words and b"\\" not in raw
        for key, after_colon in self._spelled_out(raw) if plain else self._escaped_or_not(raw):
            if key >= start:  # else it went with a member that it is in
                kept.append(raw[start:key])
                start = _member_end(raw, after_colon, kept)
        return b"".join((*kept, raw[start:])) if kept else raw

    def _spelled_out(self, raw: bytes) -> Iterator[tuple[int, int]]:
        """Where masked keys begin and their colons end, in a document without any escape.

        There, a quote followed by a name can only open a string, unless the name begins like what may follow a string;
        and a string followed by a colon is a key.
        """
        found = []
        for needle in self._needles:
            position = raw.find(needle)
            while position >= 0:
                end = position + len(needle)
                found.append((position, end))
                position = raw.find(needle, end)
        for position, end in sorted(found):
            if (colon := _AFTER_KEY.match(raw, end)) is not None:
                yield position, colon.end()

    def _escaped_or_not(self, raw: bytes) -> Iterator[tuple[int, int]]:
        """The same in any document. Looked for in the whole of it, string by string."""
        position = 0
        while (found := self._key.match(raw, position)) is not None:
            position = found.end()
            if self._is_masked(found["key"]):
                yield found.start("key"), position

    def _is_masked(self, key: bytes) -> bool:
        return b"\\" not in key or orjson.loads(key) in self._names


def _key_pattern(literal: set[bytes]) -> re.Pattern[bytes]:
    """Matches from anywhere between two tokens up to the next key that is masked or, having an escape, may be.

    It goes over whole strings, so a name inside a value is never taken for a key, and possessively, so the cost is
    linear in the text.
    """
    escaped = rb'[^"\\]*+\\.(?:[^"\\]++|\\.)*+'
    key = rb'"(?:' + b"|".join([*map(re.escape, sorted(literal)), escaped]) + rb')"'
    other = rb'(?:[^"]++|(?!' + key + _COLON + rb")" + STRING + rb")*+"
    return re.compile(other + rb"(?P<key>" + key + rb")" + _COLON, re.DOTALL)


def _member_end(raw: bytes, after_colon: int, kept: list[bytes]) -> int:
    """Where the text after a member begins, its comma going with it: the one behind it, else the one before it."""
    end = _value_end(raw, after_colon)
    comma = _COMMA.match(raw, end)
    if comma is not None:
        return comma.end()
    while kept:
        # Pieces between two masked members may be blank; the first one holds the opening brace.
        text = kept.pop().rstrip(_BLANK)
        if text:
            kept.append(text.removesuffix(b","))
            break
    return end


def _value_end(raw: bytes, start: int) -> int:
    scalar = _SCALAR.match(raw, start)
    if scalar is not None:
        return scalar.end()
    depth = 0
    position = start
    while (bracket := _BRACKET.match(raw, position)) is not None:
        position = bracket.end()
        depth += 1 if raw[position - 1] in b"[{" else -1
        if not depth:
            break
    return position
