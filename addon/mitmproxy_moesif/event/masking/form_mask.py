"""Fields removed from `application/x-www-form-urlencoded`; every other byte stays as it was sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes

from mitmproxy_moesif.event.masking.names import FieldNames, UnmaskableError

# What a form encoder writes. JSON has nothing to say in these characters but `[1]` and the like.
_ENCODED: Final = re.compile(rb"[A-Za-z0-9*._~%+=&\[\]-]*+")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_STRUCTURED_VALUE: Final = re.compile(rb"(?:[ +]|%20|%0[9aAdD])*+(?:[{\[]|%7[bB]|%5[bB])")


def mask_form(raw: bytes, names: FieldNames, mask_json: Callable[[bytes], bytes]) -> bytes:
    """The form without the masked fields; empty where none is left.

    `mask_json` masks a field's decoded value that may be JSON (`payload={...}`). `UnmaskableError` where the text is
    not plainly a form: any text parses as one, and `curl -d` calls whatever it sends a form.
    """
    if not _is_plainly_a_form(raw):
        raise UnmaskableError("not plainly a form")
    fields = raw.split(b"&")
    kept = [field for field in fields if not (field and names.holds(_decoded(field.partition(b"=")[0])))]
    text = b"&".join(_with_masked_value(field, mask_json) for field in kept)
    return text if len(kept) == len(fields) or text.strip(b"&\r\n") else b""


def _is_plainly_a_form(raw: bytes) -> bool:
    text = raw.strip()
    if _ENCODED.fullmatch(text) is not None:
        return b"=" in text or not text.startswith(b"[")
    return not text.startswith((b"{", b"[", b"<")) and b"=" in text and _CONTROL.search(text) is None


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _with_masked_value(field: bytes, mask_json: Callable[[bytes], bytes]) -> bytes:
    name, equals, value = field.partition(b"=")
    if _STRUCTURED_VALUE.match(value) is None:
        return field
    decoded = _decoded(value)
    masked = mask_json(decoded)
    return field if masked == decoded else name + equals + quote_plus(masked).encode()
