"""The body as the event shows it: its JSON unchanged, else base64, else why it was omitted.

Numbers of any size and precision are kept: an unmasked JSON body goes into the event as the original bytes, and a
masked one as those bytes without the masked members. White space is kept too, except line breaks, which become spaces:
events are stored one per line.
"""

from __future__ import annotations

from binascii import b2a_base64
from functools import lru_cache
from typing import Final, NamedTuple

import orjson

from mitmproxy_moesif.config.policy import BodyPolicy
from mitmproxy_moesif.event import decoding
from mitmproxy_moesif.event.masking import BodyMask, UnmaskableError
from mitmproxy_moesif.event.masking.json_text import is_json
from mitmproxy_moesif.event.masking.names import BOM

_LINE_BREAKS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


@lru_cache(maxsize=256)
def _compiled(names: frozenset[str]) -> BodyMask:
    """Instances with the same masked fields share a mask; a frozenset caches its hash, so the lookup is cheap."""
    return BodyMask(names)


class Rendered(NamedTuple):
    """A body as in the event.

    `value`: `orjson.Fragment` of a JSON document without a line break, or base64 as str, or None.
    `transfer_encoding`: "json" or "base64" if there is a value. `omitted`: "too_large" or "unmaskable" if there was a
    body that may not be shown.
    """

    value: object
    transfer_encoding: str | None
    omitted: str | None


_NOTHING: Final = Rendered(None, None, None)
_TOO_LARGE: Final = Rendered(None, None, "too_large")
_UNMASKABLE: Final = Rendered(None, None, "unmaskable")


def render(raw: bytes | None, content_type: str, content_encoding: str, policy: BodyPolicy) -> Rendered:
    """Render the body `raw` of a message with these two header values ("" if absent). Never raises."""
    if not raw or not policy.capture:
        return _NOTHING
    if len(raw) > policy.limit:
        return _TOO_LARGE
    if content_encoding and decoding.layers(content_encoding):
        if not policy.decompress:
            return _opaque(raw, policy)
        decoded = decoding.decode(raw, content_encoding, policy.limit)
        if decoded is decoding.Failure.TOO_LARGE:
            return _TOO_LARGE
        if decoded is decoding.Failure.UNDECODABLE:
            return _opaque(raw, policy)
        raw = decoded
    return _decoded(raw, content_type, policy)


def _decoded(raw: bytes, content_type: str, policy: BodyPolicy) -> Rendered:
    if not raw:
        return _NOTHING
    mask = _compiled(policy.masks) if policy.masks else None
    document = raw.removeprefix(BOM)
    if is_json(document):
        return _json(document if mask is None else mask.json(document))
    if mask is None:
        return _base64(raw)
    try:
        return _base64(mask.other(raw, content_type))
    except UnmaskableError:
        return _opaque(raw, policy)


def _json(document: bytes) -> Rendered:
    if b"\n" in document or b"\r" in document:
        document = document.translate(_LINE_BREAKS_TO_SPACES)
    return Rendered(orjson.Fragment(document), "json", None)


def _base64(raw: bytes) -> Rendered:
    return Rendered(b2a_base64(raw, newline=False).decode("ascii"), "base64", None) if raw else _NOTHING


def _opaque(raw: bytes, policy: BodyPolicy) -> Rendered:
    """Render bytes in which fields cannot be found and masked."""
    return _UNMASKABLE if policy.masks and not policy.send_unmaskable else _base64(raw)
