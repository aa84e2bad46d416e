"""Any text masked in whatever format it is: JSON, XML or a form, and whatever these hold, as deep as it goes.

This is what every value of every format goes through: a string of JSON, a field of a form, name and value, a text or
an attribute of XML, a part of a multipart body, a parameter of a query.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from mitmproxy_moesif.event.masking.form_mask import is_encoded_form, mask_form
from mitmproxy_moesif.event.masking.json_mask import mask_json
from mitmproxy_moesif.event.masking.json_text import is_json
from mitmproxy_moesif.event.masking.names import BOM, MASK, FieldNames, UnmaskableError
from mitmproxy_moesif.event.masking.xml_mask import begins_like_xml, mask_xml

# Each layer costs as much again as the text in it is long. What is deeper is left out.
MAX_LAYERS: Final = 16
_DECODED: Final = "; charset=utf-8"  # whatever a document in it says of its encoding


class TextMask:
    """The names of one side, applied to text."""

    __slots__ = ("names",)

    def __init__(self, names: frozenset[str]) -> None:
        self.names = FieldNames(names)

    def strict(self, raw: bytes, layer: int = 0) -> bytes:
        """The text without what is masked; `raw` itself where nothing is.

        `UnmaskableError` where it mentions a masked name as a key and is of no format in which that could be found.
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
                pass  # markup of some other kind, which may be harmless
        elif is_encoded_form(raw):
            return self.form(raw, layer)
        if self.names.is_key_in(raw):
            raise UnmaskableError("a masked name in text of no known format")
        return raw

    def value(self, raw: bytes, layer: int = 0) -> bytes:
        """The same, and `*****` in place of a text that cannot be masked."""
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
        """A form without the masked fields; empty where none is left."""
        return mask_form(raw, self.names, partial(self.strict, layer=layer + 1))
