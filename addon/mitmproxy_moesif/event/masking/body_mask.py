"""Detects the format of a body and applies the masks of one side to it."""

from __future__ import annotations

import binascii
import quopri
from collections.abc import Mapping
from functools import partial

from mitmproxy_moesif.event.masking.json_text import is_json
from mitmproxy_moesif.event.masking.media_types import charset, media_type
from mitmproxy_moesif.event.masking.multipart_mask import mask_multipart
from mitmproxy_moesif.event.masking.names import BOM, MASK, UnmaskableError
from mitmproxy_moesif.event.masking.text_mask import MAX_LAYERS, TextMask
from mitmproxy_moesif.event.masking.xml_mask import begins_like_xml

FORM = "application/x-www-form-urlencoded"


class BodyMask:
    """The compiled field names of one side."""

    __slots__ = ("_text",)

    def __init__(self, names: frozenset[str]) -> None:
        self._text = TextMask(names)

    def json(self, raw: bytes) -> bytes:
        """`raw`, a JSON document (`json_text.is_json`), without the masked members."""
        return self._text.json(raw) if self._text.names.may_occur(raw) else raw

    def other(self, raw: bytes, content_type: str, layer: int = 0) -> bytes:
        """A non-JSON body without the masked fields; empty if none is left.

        Raises `UnmaskableError` if fields cannot be found in this media type, or if the body does not clearly match it
        or an alternative.
        """
        kind = media_type(content_type)
        if kind == "multipart/form-data":
            mask_part = partial(self._part, layer=layer + 1)
            return mask_multipart(raw, content_type, self._text.names, self._text.value, mask_part)
        if kind == FORM:
            charset(content_type)
            try:
                return self._text.form(raw)
            except UnmaskableError:
                if not begins_like_xml(raw):
                    raise
        if _is_xml(kind) or (kind in ("", FORM) and begins_like_xml(raw)):
            return self._text.xml(raw, content_type)
        raise UnmaskableError("a media type whose fields cannot be found")

    def _part(self, raw: bytes, headers: Mapping[str, str], layer: int) -> bytes:
        """The masked content of a multipart part, in its encoding; `*****` if it cannot be masked."""
        if layer > MAX_LAYERS:
            return MASK
        try:
            return self._encoded_part(raw, headers, layer)
        except (UnmaskableError, ValueError):
            return MASK

    def _encoded_part(self, raw: bytes, headers: Mapping[str, str], layer: int) -> bytes:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise UnmaskableError("a compressed part")
        content_type = headers.get("content-type", "")
        match headers.get("content-transfer-encoding", "").lower():
            case "" | "7bit" | "8bit" | "binary":
                return self._plain_part(raw, content_type, layer)
            case "base64":
                plain = binascii.a2b_base64(b"".join(raw.split()), strict_mode=True)
                masked = self._plain_part(plain, content_type, layer)
                encoded = raw if masked == plain else binascii.b2a_base64(masked, newline=False)
            case "quoted-printable":
                plain = quopri.decodestring(raw)
                masked = self._plain_part(plain, content_type, layer)
                encoded = raw if masked == plain else quopri.encodestring(masked)
            case _:
                raise UnmaskableError("an unknown encoding of a part")
        if self._text.strict(encoded) != encoded:
            raise UnmaskableError("a masked field for those who do not decode a part, as most servers do not")
        return encoded

    def _plain_part(self, raw: bytes, content_type: str, layer: int) -> bytes:
        """Mask a decoded part: without a type or as plain text it is a value, else a body of its own."""
        if not raw.strip():
            return raw
        if media_type(content_type) in ("", "text/plain"):
            charset(content_type)
            return self._text.strict(raw)
        if is_json(raw.removeprefix(BOM)):
            return self._text.strict(raw)
        return self.other(raw, content_type, layer)


def _is_xml(kind: str) -> bool:
    return kind in ("text/xml", "application/xml") or kind.endswith("+xml")
