"""Removes masked parts from `multipart/form-data`; all other parts stay byte for byte.

Servers differ in what they tolerate, so this module considers all interpretations: a part is removed if any
interpretation of its name is masked, a bare LF also ends a line, and text that readers ignore (before the first and
after the last delimiter) is omitted. Anything else that is malformed raises `UnmaskableError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from mitmproxy_moesif.event.masking.media_types import Parameter, charset, parameters
from mitmproxy_moesif.event.masking.names import FieldNames, UnmaskableError

_DELIMITER_REST: Final = re.compile(rb"(--)?+[ \t]*+(?:\r?\n|\Z)")
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class _Delimiter(NamedTuple):
    start: int
    end: int  # where the next line begins
    closes: bool


type MaskContent = Callable[[bytes, Mapping[str, str]], bytes]


def mask_multipart(
    raw: bytes, content_type: str, names: FieldNames, mask_text: Callable[[bytes], bytes], mask_content: MaskContent
) -> bytes:
    """The body without the masked parts; empty if none is left.

    A part is masked by its name, or if its headers mention a masked name as a key (e.g. in a file name).
    `mask_text` masks the text of a name, `mask_content` the content of a remaining part, given the part's headers.
    """

    def is_masked(head: bytes) -> bool:
        named = _names(_headers(head))
        return any(names.holds(name) or mask_text(name) != name for name in named) or names.is_key_in(head)

    delimiters = list(_delimiters(raw, _boundary(content_type)))
    parts = [raw[here.start : there.start] for here, there in pairwise(delimiters)]
    heads = [here.end - here.start for here in delimiters[:-1]]
    kept = [
        text for part, head in zip(parts, heads, strict=True) if (text := _masked(part, head, is_masked, mask_content))
    ]
    if parts and not kept:
        return b""
    first, last = delimiters[0], delimiters[-1]
    return b"".join((_if_blank(raw[: first.start]), *kept, raw[last.start : last.end], _if_blank(raw[last.end :])))


def parts_of(raw: bytes, content_type: str) -> Iterator[tuple[dict[str, str], bytes]]:
    """Headers (names in lower case) and content of each part. Raises `UnmaskableError` if malformed."""
    for here, there in pairwise(_delimiters(raw, _boundary(content_type))):
        part = raw[here.end : there.start]
        block, begin, end = _pieces(part, 0)
        yield _headers(block), part[begin:end]


def _if_blank(text: bytes) -> bytes:
    return b"" if text.strip() else text


def _boundary(content_type: str) -> bytes:
    values = {parameter.value for parameter in parameters(content_type) if parameter.name == "boundary"}
    if len(values) != 1 or not (boundary := values.pop().strip()):
        raise UnmaskableError("no boundary")
    try:
        return boundary.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise UnmaskableError("a boundary that is no text") from error


def _delimiters(raw: bytes, boundary: bytes) -> Iterator[_Delimiter]:
    """The delimiter lines up to the closing one. Raises `UnmaskableError` if that is missing: the body is truncated."""
    marker = b"--" + boundary
    start = raw.find(marker)
    while start >= 0:
        end = start + len(marker)
        if start == 0 or raw[start - 1] == ord("\n"):
            rest = _DELIMITER_REST.match(raw, end)
            if rest is None:
                raise UnmaskableError("a line that only begins like a delimiter")
            yield _Delimiter(start, rest.end(), rest[1] is not None)
            if rest[1] is not None:
                return
        start = raw.find(marker, end)
    raise UnmaskableError("no closing delimiter")


def _masked(part: bytes, head: int, is_masked: Callable[[bytes], bool], mask_content: MaskContent) -> bytes:
    """The part masked; empty if it must not be shown. It begins with its delimiter line of `head` bytes."""
    block, begin, end = _pieces(part, head)
    if is_masked(block):
        return b""
    content = part[begin:end]
    masked = mask_content(content, _headers(block))
    return part if masked == content else part[:begin] + masked + part[end:]


def _pieces(part: bytes, head: int) -> tuple[bytes, int, int]:
    """The headers, and where the content begins and ends."""
    blank_line = _BLANK_LINE.search(part, head)
    if blank_line is None:
        raise UnmaskableError("a part without content")
    end = len(part.removesuffix(b"\n").removesuffix(b"\r"))
    return part[head : blank_line.start()], blank_line.end(), end


def _headers(block: bytes) -> dict[str, str]:
    """Values by lower-case header name, continuation lines joined; decoded as Latin-1, which is lossless."""
    headers: dict[str, str] = {}
    unfolded = block.decode("latin-1").replace("\r\n", "\n").replace("\n ", " ").replace("\n\t", "\t")
    if _CONTROL.search(unfolded) is not None:
        raise UnmaskableError("a control character in a part's headers")
    for line in unfolded.split("\n"):
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if not colon or not key or key in headers:
            raise UnmaskableError("malformed or repeated part header")
        headers[key] = value.strip()
    return headers


def _names(headers: dict[str, str]) -> list[bytes]:
    """Every interpretation of the part's name, as bytes."""
    readings: list[bytes] = []
    for parameter in parameters(headers.get("content-disposition", "")):
        match parameter.name:
            case "name":
                readings += _plain_readings(parameter)
            case "name*":
                readings += _extended_readings(parameter)
            case name if name.startswith("name*"):
                raise UnmaskableError("a name in pieces (RFC 2231)")
    if not readings:
        raise UnmaskableError("a part without a name")
    return readings


def _plain_readings(parameter: Parameter) -> list[bytes]:
    """Backslashes both literal and as escapes, and percent-decoded as in HTML; with and without single quotes."""
    if "=?" in parameter.text:
        raise UnmaskableError("an encoded word (RFC 2047) for a name")
    texts = dict.fromkeys((parameter.text, parameter.value, parameter.text.strip("'")))
    sent = [text.encode("latin-1") for text in texts]
    return sent + [unquote_to_bytes(text) for text in sent if b"%" in text]


def _extended_readings(parameter: Parameter) -> list[bytes]:
    """`name*=utf-8'en'caf%C3%A9` (RFC 5987)."""
    declared, quote, rest = parameter.value.partition("'")
    text = rest.partition("'")[2] if quote else parameter.value
    if quote and declared:
        charset(f"; charset={declared}")
    return [unquote_to_bytes(text.encode("latin-1")), *_plain_readings(parameter)]
