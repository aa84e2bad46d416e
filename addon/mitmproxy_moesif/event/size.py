"""An event as bytes, no more than Moesif takes: it is cut before it is kept, never kept to be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

MAX_EVENT_BYTES = 1_000_000
"""Moesif refuses larger events."""

NAMED = 50
"""So many of the members that were left out are named."""

LONGEST = 200
"""Characters of such a name."""

SHORT = 1_000
"""Characters of what has to be there."""

ROOM = 100_000
"""Bytes for these names and for what is not looked at one by one."""

HOLDERS = frozenset({"request", "request.headers", "response", "response.headers", "metadata"})
REQUIRED = frozenset(
    {
        *("request.uri", "request.verb", "request.time", "request.ip_address", "response.time", "response.status"),
        *("transaction_id", "direction", "weight"),
    }
)


class Member(NamedTuple):
    """Something that can be left out; `name` as in `request.headers.cookie`."""

    size: int
    name: str
    holder: dict[str, Any]
    key: str


def encode(event: dict[str, Any]) -> bytes:
    """One line of JSON, at most `MAX_EVENT_BYTES`.

    A larger event loses its bodies, which `metadata.body_omitted` says; where that is not enough, the largest of its
    other members, which `metadata.omitted` names. What Moesif asks for is shortened.
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
    """What passed through a user hook may need the standard library's encoder: numbers beyond 64 bits, and halves of
    surrogate pairs. A copy: what orjson returns holds the memory it wrote in, many times as much."""
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
