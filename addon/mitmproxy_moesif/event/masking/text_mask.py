"""Masks text of any format: JSON, XML or a form, and recursively the texts inside.

Every value of every format passes through here: JSON strings, names and values of form fields, XML text and
attributes, parts of a multipart body, query parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from mitmproxy_moesif.event.masking.form_mask import is_encoded_form, mask_form
from mitmproxy_moesif.event.masking.json_mask import mask_json
from mitmproxy_moesif.event.masking.json_text import is_json
from mitmproxy_moesif.event.masking.names import BOM, MASK, FieldNames, UnmaskableError
from mitmproxy_moesif.event.masking.xml_mask import begins_like_xml, mask_xml

# Each layer costs time in proportion to its text. Deeper text is unmaskable.
MAX_LAYERS: Final = 16
_DECODED: Final = "; charset=utf-8"  # overrides the encoding that an inner document declares


class TextMask:
    """The names of one side, applied to text."""

    __slots__ = ("names",)

    def __init__(self, names: frozenset[str]) -> None:
        self.names = FieldNames(names)

    def strict(self, raw: bytes, layer: int = 0) -> bytes:
        """The masked text; `raw` itself if there is nothing to mask.

        Raises `UnmaskableError` if it mentions a masked name as a key but has no known format.
        """
        if not self.names.may_occur(raw):
            return raw
        if layer > MAX_LAYERS:
            raise UnmaskableError("too many texts inside each other")
        if raw.startswith(BOM):
            return BOM + self.strict(raw.removeprefix(BOM), layer)
        if is_json(raw):
            return self.json(raw, layer)
        if begins_like_xml(raw):
            try:
                return self.xml(raw, _DECODED, layer)
            except UnmaskableError:
                pass  # other markup, which may be harmless
        elif is_encoded_form(raw):
            return self.form(raw, layer)
        if self.names.is_key_in(raw):
            raise UnmaskableError("a masked name in text of no known format")
        return raw

    def value(self, raw: bytes, layer: int = 0) -> bytes:
        """Like `strict`, but returns `*****` for a text that cannot be masked."""
        try:
            return self.strict(raw, layer)
        except UnmaskableError:
            return MASK

    def json(self, raw: bytes, layer: int = 0) -> bytes:
        """A JSON document (`json_text.is_json`) without the masked members."""
        return mask_json(raw, self.names, partial(self.value, layer=layer + 1))

    def xml(self, raw: bytes, content_type: str, layer: int = 0) -> bytes:
        """XML without the masked elements and attributes."""
        return mask_xml(raw, content_type, self.names, partial(self.value, layer=layer + 1))

    def form(self, raw: bytes, layer: int = 0) -> bytes:
        """A form without the masked fields; empty if none is left."""
        return mask_form(raw, self.names, partial(self.strict, layer=layer + 1))
