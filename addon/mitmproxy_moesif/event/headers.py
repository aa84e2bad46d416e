"""Header fields as text."""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache

from mitmproxy_moesif.config.policy import hyphened
from mitmproxy_moesif.event.exchange import Fields


def text(value: bytes) -> str:
    """Bytes of a header or a request target as text: decoded as UTF-8 if valid, else as Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


@lru_cache(maxsize=128)  # every exchange has the same few names; an attacker's names may have up to 64 KB
def lower_name(raw: bytes) -> str:
    """A name in lower case, stripped. Saved traffic may have names with spaces; lenient servers ignore these too."""
    return text(raw).strip().lower()


def by_name(fields: Fields) -> dict[str, list[str]]:
    """All values by lower-case name; a repeated header has several."""
    headers: dict[str, list[str]] = {}
    for raw_name, raw_value in fields:
        headers.setdefault(lower_name(raw_name), []).append(text(raw_value))
    return headers


READ_BODIES_BY = frozenset({"content-type", "content-encoding"})


def without(fields: Fields, names: frozenset[str]) -> Fields:
    """Remove the headers with these names (`hyphened`), except those needed to read a body."""
    if not names:
        return fields
    return tuple(
        field for field in fields if hyphened(name := lower_name(field[0])) not in names or name in READ_BODIES_BY
    )


def first_lines(fields: Fields, names: Container[str]) -> dict[str, str]:
    """The value of the first line of each of these headers that is there."""
    lines: dict[str, str] = {}
    for raw_name, raw_value in fields:
        if (name := lower_name(raw_name)) in names:
            lines.setdefault(name, text(raw_value))
    return lines


def flatten(fields: Fields) -> dict[str, str]:
    """A flat map with lower-case names; repeated headers joined with `, `, cookies with `; `."""
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for raw_name, raw_value in fields:
        name = lower_name(raw_name)
        if name in headers:
            repeated.setdefault(name, [headers[name]]).append(text(raw_value))
        else:
            headers[name] = text(raw_value)
    for name, values in repeated.items():
        headers[name] = ("; " if name == "cookie" else ", ").join(values)
    return headers
