"""Path and query as Kong's router sees them.

Paths are bytes here: Kong compares and measures bytes, and a percent-encoding may stand for any byte. `from_text` and
`exact_text` convert from and to the `str` used elsewhere in the package; `to_text` makes text for display.

Source: recorded decisions of Kong's router, and its public source for the reserved characters. Every percent-encoding
except those of reserved characters is decoded, not only those of RFC 3986's unreserved characters: `/caf%c3%a9` is
`/café` to the routes and the upstream.
"""

from __future__ import annotations

import re
from collections.abc import Container
from itertools import islice

RESERVED = frozenset(b"!*'();:@&=+$,/?%#[]")
"""Bytes whose percent-encoding is kept, since decoding them would change the path's meaning."""

MOST_PARAMETERS = 100
"""The number of query parameters that Kong's router reads by default."""

_NUMBER, _RANGE = re.compile(r"[0-9]{1,9}"), re.compile(r"([0-9]{1,9})_([0-9]{1,9})")
_PARAMETER = re.compile(rb"(?:(?<=&)|^)[^&=][^&]*")
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
_SLASHES = re.compile(rb"//+")


def from_text(text: str) -> bytes:
    """The bytes of a path given as text. Lone surrogates stand for bytes that are not UTF-8, as in mitmproxy."""
    return text.encode("utf-8", "surrogateescape")


def exact_text(octets: bytes) -> str:
    """The reverse of `from_text`."""
    return octets.decode("utf-8", "surrogateescape")


def to_text(path: bytes) -> str:
    """Text for display or comparison, valid in JSON: invalid UTF-8 becomes U+FFFD."""
    return path.decode("utf-8", "replace")


def request_path(target: str) -> bytes:
    """The normalized path of a request target in origin form, without the query."""
    cut = target.find("?", 1)
    return normalize(from_text(target if cut < 0 else target[:cut]))


def segments(path: bytes) -> list[str]:
    """The segments of a normalized path, without trailing empty ones."""
    found = exact_text(path[1:]).split("/")
    while found and not found[-1]:
        found.pop()
    return found


def some_of(found: list[str], which: str) -> tuple[str, ...]:
    """The segment with this number (`1`), or a range of segments as one text (`1_3`); empty if there are too few."""
    if _NUMBER.fullmatch(which):
        return tuple(found[int(which) :][:1])
    if (both := _RANGE.fullmatch(which)) is None:
        return ()
    first, last = map(int, both.groups())
    return ("/".join(found[first : last + 1]),) if first < last < len(found) else ()


def parameters(target: str, wanted: Container[str]) -> dict[str, tuple[str, ...]]:
    """The wanted query parameters of a request target; a parameter without a value has an empty one."""
    found: dict[str, tuple[str, ...]] = {}
    query = from_text(target.partition("?")[2].partition("#")[0])
    for pair in islice(_PARAMETER.finditer(query), MOST_PARAMETERS):
        name, _, value = pair[0].replace(b"+", b" ").partition(b"=")
        if (said := _decoded(name)) in wanted:
            found[said] = (*found.get(said, ()), _decoded(value))
    return found


def normalize(path: bytes) -> bytes:
    """Normalize a path: decode or upper-case percent-encodings, merge `//`, remove dot segments.

    Idempotent if every `%` starts a percent-encoding (Kong's web server refuses others).
    """
    if b"%" in path:
        path = _ENCODED.sub(_decode, path)
    if b"//" in path:
        path = _SLASHES.sub(b"/", path)
    return _without_dot_segments(path) if b"." in path else path


def _decoded(text: bytes) -> str:
    return exact_text(_ENCODED.sub(lambda found: bytes((int(found[1], 16),)), text))


def _decode(found: re.Match[bytes]) -> bytes:
    octet = int(found[1], 16)
    return found[0].upper() if octet in RESERVED else bytes((octet,))


def _without_dot_segments(path: bytes) -> bytes:
    """Remove dot segments as in RFC 3986, section 5.2.4, from a path without `//`; `..` at the root is dropped."""
    head, *segments = path.split(b"/")
    while head in (b".", b"..") and segments:  # a relative path loses leading dots and the slash after them
        head = segments.pop(0)
    kept = [] if head in (b"", b".", b"..") else [head]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(b"/" + segment)
    if segments and segments[-1] in (b".", b".."):
        kept.append(b"/")
    return b"".join(kept)
