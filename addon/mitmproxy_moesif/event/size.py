"""Encodes an event within Moesif's size limit. It is reduced before it is stored, so that Moesif does not refuse it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

MAX_EVENT_BYTES = 1_000_000
"""Moesif refuses larger events."""

NAMED = 50
"""Maximum number of omitted members that are named."""

LONGEST = 200
"""Maximum characters of such a name."""

SHORT = 1_000
"""Maximum characters of a required member in an oversized event."""

ROOM = 100_000
"""Bytes reserved for these names and for everything that is not measured member by member."""

HOLDERS = frozenset({"request", "request.headers", "response", "response.headers", "metadata"})
REQUIRED = frozenset(
    {
        *("request.uri", "request.verb", "request.time", "request.ip_address", "response.time", "response.status"),
        *("transaction_id", "direction", "weight"),
    }
)


class Member(NamedTuple):
    """A member that can be omitted; `name` as in `request.headers.cookie`."""

    size: int
    name: str
    holder: dict[str, Any]
    key: str


def encode(event: dict[str, Any]) -> bytes:
    """One line of JSON, at most `MAX_EVENT_BYTES`.

    A larger event loses its bodies, noted in `metadata.body_omitted`; if that is not enough, also the largest of its
    other members, named in `metadata.omitted`. Members that Moesif requires are truncated instead.
    """
    encoded = dumps(event)
    if len(encoded) <= MAX_EVENT_BYTES:
        return encoded
    omitted = event.setdefault("metadata", {}).setdefault("body_omitted", {})
    for side in ("response", "request"):
        if side in event and event[side].pop("body", None) is not None:
            event[side].pop("transfer_encoding", None)
            omitted[side] = "too_large"
            encoded = dumps(event)
            if len(encoded) <= MAX_EVENT_BYTES:
                return encoded
    _leave_out(event, len(encoded) - MAX_EVENT_BYTES + ROOM)
    return dumps(event)


def dumps(value: object) -> bytes:
    """Compact JSON. Values from a user hook may need the standard library's encoder: numbers beyond 64 bits, and lone
    surrogates. Returns a copy, because orjson's result keeps its write buffer, which is many times as large."""
    try:
        return bytes(memoryview(orjson.dumps(value)))
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _leave_out(event: dict[str, Any], excess: int) -> None:
    names: list[str] = []
    for member in sorted(_members(event), reverse=True, key=lambda member: member.size):
        if excess <= 0:
            break
        if member.name in REQUIRED:
            member.holder[member.key] = str(member.holder[member.key])[:SHORT]
        else:
            del member.holder[member.key]
        excess -= member.size
        names.append(member.name[:LONGEST])
    event["metadata"] |= {"omitted": names[:NAMED], "omitted_count": len(names)}


def _members(holder: dict[str, Any], prefix: str = "") -> Iterator[Member]:
    for key, value in holder.items():
        name = prefix + key
        if name in HOLDERS and isinstance(value, dict):
            yield from _members(value, f"{name}.")
        else:
            yield Member(len(dumps({key: value})) - 1, name, holder, key)
