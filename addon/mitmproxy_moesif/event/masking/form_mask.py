"""Removes fields from `application/x-www-form-urlencoded`; every other byte stays as sent.

Fields are separated by `&`, and for some servers by `;` too. For others a `;` belongs to the value, and `&amp;` is a
character of it: so what follows a masked field after one of these may be part of its value, and is removed too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.entities import html5
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes

from mitmproxy_moesif.event.masking.names import BOM, MASK, FieldNames, UnmaskableError

# The characters that a form encoder writes. The only JSON in these characters is like `[1]`.
_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._~%+=&;\[\]-]*+")
# Also with characters that some encoders do not escape.
_NEARLY_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._~%+=&;\[\]/:@,!$'()-]*+")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_STRUCTURE: Final = re.compile(rb"[{}\[\]<>\"]")

_SEPARATOR: Final = re.compile(rb"&(?:#?[A-Za-z0-9]{1,32};)?|;")
# In a masked field: it is not encoded, and may continue after its end.
_GOES_ON: Final = re.compile(rb"[{}<>\"]|=\s*+['`(\[]")

type MaskText = Callable[[bytes], bytes]
type Instead = Callable[[bytes], bytes | None]
"""Called with the name of a masked field, as sent; returns the field's replacement, or None to remove it."""


def mask_form(raw: bytes, names: FieldNames, mask_text: MaskText) -> bytes:
    """The form without the masked fields; empty if none is left.

    `mask_text` masks the text of a value. Raises `UnmaskableError` if `mask_text` does, or if the text is not clearly a
    form: any text parses as one, and `curl -d` labels everything that it sends as a form.
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
    """The fields between two `&`, up to the first that is masked in part or whole; None if nothing is left.

    `names_alone`: text without `=` is the name of a field, else it is plain text.
    """
    kept: list[bytes] = []
    for field in [part] if _holds_structure(part) else _split(part, b";"):
        name, equals, value = field.partition(b"=") if names_alone or b"=" in field else (b"", b"", field)
        # In `&amppassword=x`, the `&amp` may stand for a character.
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
    """The text as the receiver of a form or query decodes it."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def is_encoded_form(raw: bytes) -> bool:
    """Whether the text looks like the output of a form encoder and has a `=`. A URL does not."""
    return b"=" in raw and _NEARLY_ENCODED.fullmatch(raw) is not None


def _split(raw: bytes, separator: bytes) -> Iterator[bytes]:
    """The text between the separators; those that are part of a character reference do not count."""
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
    """Whether the value is unencoded JSON or XML, in which a `;` is not a separator."""
    return field.partition(b"=")[2].lstrip()[:1] in (b"{", b"[", b"<")


def _masked_value(value: bytes, mask_text: MaskText) -> bytes:
    """The masked value; `*****` if it cannot be masked. Raises if it looks like a piece of another format."""
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
