"""Which format a body has, and the masks of one side applied to it."""

from __future__ import annotations

from mitmproxy_moesif.event.masking.form_mask import mask_form
from mitmproxy_moesif.event.masking.json_mask import JsonMask
from mitmproxy_moesif.event.masking.json_text import begins_like_json, is_json
from mitmproxy_moesif.event.masking.media_types import charset, media_type
from mitmproxy_moesif.event.masking.multipart_mask import mask_multipart
from mitmproxy_moesif.event.masking.names import FieldNames, UnmaskableError
from mitmproxy_moesif.event.masking.xml_mask import mask_xml


class BodyMask:
    """The field names of one side, compiled once; they are compared in exact case."""

    __slots__ = ("_fields", "_json", "_names")

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._fields = FieldNames(names)
        self._json = JsonMask(names)

    def json(self, raw: bytes) -> bytes:
        """`raw`, a JSON document (`json_text.is_json`), without the masked members."""
        return self._json.apply(raw)

    def other(self, raw: bytes, content_type: str) -> bytes:
        """A body that is not JSON without the masked fields; empty where none is left.

        `UnmaskableError` where the media type has no fields that can be found or the body is not certainly of it.
        """
        kind = media_type(content_type)
        if kind == "multipart/form-data":
            return mask_multipart(raw, content_type, self._fields, self._part)
        if kind == "application/x-www-form-urlencoded":
            charset(content_type)
            return mask_form(raw, self._fields, self._embedded)
        if _is_xml(kind) or (not kind and raw.lstrip()[:1] == b"<"):
            return mask_xml(raw, content_type, self._names)
        raise UnmaskableError("a media type whose fields cannot be found")

    def _part(self, raw: bytes, content_type: str) -> bytes:
        """The content of a multipart part. Without a type, or with a plain one, it is a value and no document."""
        kind = media_type(content_type)
        if not raw.strip():
            return raw
        if is_json(raw):
            return self._json.apply(raw)
        if _is_json_type(kind) or kind.startswith("multipart/"):
            raise UnmaskableError("a part whose fields cannot be found")
        if _is_xml(kind) or kind == "application/x-www-form-urlencoded":
            return self.other(raw, content_type)
        return self._embedded(raw)

    def _embedded(self, raw: bytes) -> bytes:
        """A value that may be a JSON text. `[draft] hello` is none and stays; what might hide a masked key may not."""
        if is_json(raw):
            return self._json.apply(raw)
        if begins_like_json(raw) and self._json.may_occur(raw):
            raise UnmaskableError("a value that resembles JSON")
        return raw


def _is_xml(kind: str) -> bool:
    return kind in ("text/xml", "application/xml") or kind.endswith("+xml")


def _is_json_type(kind: str) -> bool:
    return kind in ("application/json", "text/json") or kind.endswith("+json")
