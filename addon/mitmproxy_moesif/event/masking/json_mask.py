"""Removes JSON members by name from the original text, and masks inside the remaining strings.

The document is not parsed and serialized again: the text of a masked member is cut out and every other byte stays. So
numbers of any size, duplicate keys, key order and white space survive, and nesting can be of any depth. Only strings
in which a masked name may occur are examined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final

from mitmproxy_moesif.event.masking.json_text import STRING
from mitmproxy_moesif.event.masking.names import FieldNames

_BLANK: Final = b" \t\r\n"
_BLANKS: Final = rb"[ \t\r\n]*+"
_AFTER_KEY: Final = re.compile(_BLANKS + rb":")
_COMMA: Final = re.compile(_BLANKS + rb"," + _BLANKS)
_SCALAR: Final = re.compile(_BLANKS + rb"(?:" + STRING + rb"|[^][{}\",\s]++)", re.DOTALL)
_BRACKET: Final = re.compile(rb'[^][{}"]*+(?:' + STRING + rb'[^][{}"]*+)*+[][{}]', re.DOTALL)
_ANY_STRING: Final = re.compile(rb'"[^"]*+"')


def mask_json(raw: bytes, names: FieldNames, mask_text: Callable[[bytes], bytes]) -> bytes:
    """`raw`, which must be valid JSON, without the masked members; `mask_text` masks the text of a key or string."""
    kept: list[bytes] = []
    start = 0
    holds: dict[bytes, bool] = {}  # the same few keys occur again and again
    for begin, end in _suspect_strings(raw, names):
        if begin < start:
            continue  # it is inside a member that was already removed
        token = raw[begin:end]
        if (colon := _AFTER_KEY.match(raw, end)) is not None:
            if token not in holds:
                holds[token] = names.holds(json.loads(token.decode()))
            if holds[token]:
                kept.append(raw[start:begin])
                start = _member_end(raw, colon.end(), kept)
                continue
        if (masked := _masked_string(token, mask_text)) != token:
            kept += raw[start:begin], masked
            start = end
    return b"".join((*kept, raw[start:])) if kept else raw


def _masked_string(token: bytes, mask_text: Callable[[bytes], bytes]) -> bytes:
    plain = json.loads(token.decode()).encode("utf-8", "surrogatepass")
    masked = mask_text(plain)
    return token if masked == plain else json.dumps(masked.decode("utf-8", "surrogatepass")).encode()


def _suspect_strings(raw: bytes, names: FieldNames) -> Iterator[tuple[int, int]]:
    """Start and end of the strings in which a masked name may occur, quotes included."""
    # A copy in which the only quotes are those around strings, with every byte at its original position.
    flat = raw.replace(b"\\\\", b"  ").replace(b'\\"', b"  ") if b"\\" in raw else raw
    suspects = names.suspects(raw)
    if suspects is None:
        yield from (found.span() for found in _ANY_STRING.finditer(flat))
        return
    end = 0
    for position in suspects:
        if position < end:
            continue
        if flat.count(b'"', end, position) % 2:
            begin = flat.rindex(b'"', end, position)
            end = flat.index(b'"', position) + 1
            yield begin, end
        else:
            end = position  # between two strings


def _member_end(raw: bytes, after_colon: int, kept: list[bytes]) -> int:
    """Where the text after a removed member begins. Also removes its comma: the one after it, else the one before."""
    end = _value_end(raw, after_colon)
    comma = _COMMA.match(raw, end)
    if comma is not None:
        return comma.end()
    while kept:
        # Pieces between two masked members may be blank; the first piece has the opening brace.
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
