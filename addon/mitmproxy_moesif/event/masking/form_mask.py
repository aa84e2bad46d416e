"""Fields removed from `application/x-www-form-urlencoded`; every other byte stays as it was sent.

Fields are separated by `&`, and by `;` too, as some servers have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes

from mitmproxy_moesif.event.masking.names import BOM, MASK, FieldNames, UnmaskableError

# What a form encoder writes. JSON has nothing to say in these characters but `[1]` and the like.
_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._~%+=&;\[\]-]*+")
# The same with what some encoders leave as it is.
_NEARLY_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._~%+=&;\[\]/:@,!$'()-]*+")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_STRUCTURE: Final = re.compile(rb"[{}\[\]<>\"]")

type MaskField = Callable[[bytes], bytes | None]


def mask_form(raw: bytes, names: FieldNames, mask_text: Callable[[bytes], bytes]) -> bytes:
    """The form without the masked fields; empty where none is left.

    `mask_text` masks what a name or a value holds, and raises `UnmaskableError`, as this does where the text is not
    plainly a form: any text parses as one, and `curl -d` calls whatever it sends a form.
    """
    if not _is_plainly_a_form(raw):
        raise UnmaskableError("not plainly a form")
    if not names.may_occur(raw):
        return raw
    masked = mask_fields(raw, lambda field: mask_field(field, names, mask_text))
    return masked if masked is not None and (masked == raw or masked.strip(b"&;\r\n")) else b""


def mask_fields(raw: bytes, mask: MaskField) -> bytes | None:
    """The fields that `mask` lets stay; None where it lets none."""
    return _each(raw, b"&", lambda part: mask(part) if _holds_structure(part) else _each(part, b";", mask))


def mask_field(field: bytes, names: FieldNames, mask_text: Callable[[bytes], bytes]) -> bytes | None:
    """The field with name and value masked inside; None where its name is a masked one."""
    name, equals, value = field.partition(b"=")
    shown = _masked(name, mask_text)
    if field and shown == name and (names.holds(decoded(name)) or names.is_key_in(decoded(name) + equals)):
        return None
    return shown + equals + _masked_value(value, mask_text)


def decoded(text: bytes) -> bytes:
    """As the receiver of a form or a query reads it."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def is_encoded_form(raw: bytes) -> bool:
    """Whether the text is what a form encoder writes, and more than one word. A URL is none."""
    return b"=" in raw and _NEARLY_ENCODED.fullmatch(raw) is not None


def _each(raw: bytes, separator: bytes, mask: MaskField) -> bytes | None:
    kept = [masked for part in raw.split(separator) if (masked := mask(part)) is not None]
    return separator.join(kept) if kept else None


def _holds_structure(field: bytes) -> bool:
    """Whether the value is JSON or XML that was not encoded, in which a `;` separates nothing."""
    return field.partition(b"=")[2].lstrip()[:1] in (b"{", b"[", b"<")


def _masked(piece: bytes, mask_text: Callable[[bytes], bytes]) -> bytes:
    plain = decoded(piece)
    masked = mask_text(plain)
    return piece if masked == plain else quote_plus(masked, safe="*").encode()


def _masked_value(value: bytes, mask_text: Callable[[bytes], bytes]) -> bytes:
    """`*****` where it cannot be masked, unless it looks like a piece of something that is no form at all."""
    try:
        return _masked(value, mask_text)
    except UnmaskableError:
        if _STRUCTURE.search(value) is not None:
            raise
        return MASK


def _is_plainly_a_form(raw: bytes) -> bool:
    text = raw.removeprefix(BOM).strip()
    if _ENCODED.fullmatch(text) is not None:
        return b"=" in text or not text.startswith(b"[")
    return not text.startswith((b"{", b"[", b"<")) and b"=" in text and _CONTROL.search(text) is None
