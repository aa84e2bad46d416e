"""Fields removed from `application/x-www-form-urlencoded`; every other byte stays as it was sent.

Fields are separated by `&`, and by `;` too, as some servers have it. For others a `;` belongs to the value, and
`&amp;` is a character of it: what follows a masked field behind one may be its value, and goes with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.entities import html5
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes

from mitmproxy_moesif.event.masking.names import BOM, MASK, FieldNames, UnmaskableError

# What a form encoder writes. JSON has nothing to say in these characters but `[1]` and the like.
_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._~%+=&;\[\]-]*+")
# The same with what some encoders leave as it is.
_NEARLY_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._~%+=&;\[\]/:@,!$'()-]*+")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_STRUCTURE: Final = re.compile(rb"[{}\[\]<>\"]")

_SEPARATOR: Final = re.compile(rb"&(?:#?[A-Za-z0-9]{1,32};)?|;")
# In a masked field: it is no encoded one, and may go on behind its end.
_GOES_ON: Final = re.compile(rb"[{}<>\"]|=\s*+['`(\[]")

type MaskText = Callable[[bytes], bytes]
type Instead = Callable[[bytes], bytes | None]
"""Is given the name of a masked field, as sent; returns what stands in place of the field, None for nothing."""


def mask_form(raw: bytes, names: FieldNames, mask_text: MaskText) -> bytes:
    """The form without the masked fields; empty where none is left.

    `mask_text` masks what a value holds, and raises `UnmaskableError`, as this does where the text is not plainly a
    form: any text parses as one, and `curl -d` calls whatever it sends a form.
    """
    if not _is_plainly_a_form(raw):
        raise UnmaskableError("not plainly a form")
    if not names.may_occur(raw):
        return raw
    masked = mask_fields(raw, names, mask_text, lambda _name: None)
    return masked if masked == raw or masked.strip(b"&;\r\n") else b""


def mask_fields(raw: bytes, names: FieldNames, mask_text: MaskText, instead: Instead) -> bytes:
    parts = (mask_part(part, names, mask_text, instead) for part in _split(raw, b"&"))
    return b"&".join(part for part in parts if part is not None)


def mask_part(
    part: bytes, names: FieldNames, mask_text: MaskText, instead: Instead, *, names_alone: bool = True
) -> bytes | None:
    """The fields between two `&`, up to the first of which something is masked; None where nothing stays.

    `names_alone`: what has no `=` is the name of a field, else it is a text.
    """
    kept: list[bytes] = []
    for field in [part] if _holds_structure(part) else _split(part, b";"):
        name, equals, value = field.partition(b"=") if names_alone or b"=" in field else (b"", b"", field)
        # Of `&amppassword=x` the `&amp` may be meant as a character.
        if (name or equals) and (names.holds(decoded(name)) or names.holds(b"&" + name)):
            if _GOES_ON.search(field) is not None:
                raise UnmaskableError("a masked field that may go on behind its end")
            if (shown := instead(name)) is not None:
                kept.append(shown)
            break
        masked = _masked_value(value, mask_text)
        kept.append(name + equals + masked)
        if masked != value:
            break
    return b";".join(kept) if kept else None


def decoded(text: bytes) -> bytes:
    """As the receiver of a form or a query reads it."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def is_encoded_form(raw: bytes) -> bool:
    """Whether the text is what a form encoder writes, and more than one word. A URL is none."""
    return b"=" in raw and _NEARLY_ENCODED.fullmatch(raw) is not None


def _split(raw: bytes, separator: bytes) -> Iterator[bytes]:
    """What is between the separators, but for those that a character reference is made of."""
    begin = 0
    for found in _SEPARATOR.finditer(raw):
        at = found[0].find(separator)
        if at >= 0 and not _is_reference(found[0]):
            yield raw[begin : found.start() + at]
            begin = found.start() + at + 1
    yield raw[begin:]


def _is_reference(text: bytes) -> bool:
    return text.startswith(b"&#") or text[1:].decode() in html5


def _holds_structure(field: bytes) -> bool:
    """Whether the value is JSON or XML that was not encoded, in which a `;` separates nothing."""
    return field.partition(b"=")[2].lstrip()[:1] in (b"{", b"[", b"<")


def _masked_value(value: bytes, mask_text: MaskText) -> bytes:
    """`*****` where it cannot be masked, unless it looks like a piece of something that is no form at all."""
    plain = decoded(value)
    try:
        masked = mask_text(plain)
    except UnmaskableError:
        if _STRUCTURE.search(value) is not None:
            raise
        return MASK
    return value if masked == plain else quote_plus(masked, safe="*").encode()


def _is_plainly_a_form(raw: bytes) -> bool:
    text = raw.removeprefix(BOM).strip()
    if _ENCODED.fullmatch(text) is not None:
        return b"=" in text or not text.startswith(b"[")
    return not text.startswith((b"{", b"[", b"<")) and b"=" in text and _CONTROL.search(text) is None
