"""Path and query as Kong's router sees them.

Paths are bytes in here: Kong compares and measures bytes, and a percent-encoding may stand for any byte. `from_text`
and `exact_text` cross over to the `str` of the rest of the package and back, `to_text` to what can be shown.

Source: the recorded decisions of Kong's router, and its public source for which characters count as reserved. Every
percent-encoding but theirs is decoded, not only those of RFC 3986's unreserved characters: `/caf%c3%a9` reaches the
routes and the upstream as `/café`.
"""

from __future__ import annotations

import re
from collections.abc import Container
from itertools import islice

RESERVED = frozenset(b"!*'();:@&=+$,/?%#[]")
"""Octets whose percent-encoding is kept: decoding them would change what the path means."""

MOST_PARAMETERS = 100
"""Kong's router looks at no more, as long as nobody says otherwise."""

_NUMBER, _RANGE = re.compile(r"[0-9]{1,9}"), re.compile(r"([0-9]{1,9})_([0-9]{1,9})")
_PARAMETER = re.compile(rb"(?:(?<=&)|^)[^&=][^&]*")
_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")
_SLASHES = re.compile(rb"//+")


def from_text(text: str) -> bytes:
    """The octets of a path given as text; octets that are no UTF-8 travel as lone surrogates, as in mitmproxy."""
    return text.encode("utf-8", "surrogateescape")


def exact_text(octets: bytes) -> str:
    """What `from_text` makes the same octets of again."""
    return octets.decode("utf-8", "surrogateescape")


def to_text(path: bytes) -> str:
    """Text to show or to compare; octets that are no UTF-8 become U+FFFD, so that it can be written as JSON."""
    return path.decode("utf-8", "replace")


def request_path(target: str) -> bytes:
    """The normalized path of a request target in origin form: the query is cut off first."""
    cut = target.find("?", 1)
    return normalize(from_text(target if cut < 0 else target[:cut]))


def segments(path: bytes) -> list[str]:
    """Of a normalized path; an empty one does not count where none follows but empty ones."""
    found = exact_text(path[1:]).split("/")
    while found and not found[-1]:
        found.pop()
    return found


def some_of(found: list[str], which: str) -> tuple[str, ...]:
    """The segment of this number, or those from one to a later one as one text; none where there are fewer."""
    if _NUMBER.fullmatch(which):
        return tuple(found[int(which) :][:1])
    if (both := _RANGE.fullmatch(which)) is None:
        return ()
    first, last = map(int, both.groups())
    return ("/".join(found[first : last + 1]),) if first < last < len(found) else ()


def parameters(target: str, wanted: Container[str]) -> dict[str, tuple[str, ...]]:
    """Of the query of a request target, those that are wanted; one without a value has an empty one."""
    found: dict[str, tuple[str, ...]] = {}
    query = from_text(target.partition("?")[2].partition("#")[0])
    for pair in islice(_PARAMETER.finditer(query), MOST_PARAMETERS):
        name, _, value = pair[0].replace(b"+", b" ").partition(b"=")
        if (said := _decoded(name)) in wanted:
            found[said] = (*found.get(said, ()), _decoded(value))
    return found


def normalize(path: bytes) -> bytes:
    """Percent-encodings decoded or upper-cased, `//` merged, dot segments removed.

    Doing it twice changes nothing, provided that every `%` starts an encoding (Kong's web server refuses others).
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
    """RFC 3986, section 5.2.4, over a path without `//`; `..` above the root stays at the root."""
    head, *segments = path.split(b"/")
    while head in (b".", b"..") and segments:  # a relative path loses leading dots together with their slash
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
