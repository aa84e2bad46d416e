"""Finds what each mask removed from an event: names and paths, never a value.

The name of a removed member is shown only if it is the name of a mask; any other (a key with masked text) is shown as
`…`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.policy import EventPolicy, SidePolicy, hyphened
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.bodies import render
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.recent.api import Removed

MOST = 100
DEEPEST = 50
LONGEST = 300
"""Maximum characters of a path that are shown."""

HIDDEN_NAME = "…"


def unmasked(policy: EventPolicy) -> EventPolicy:
    """The same policy without any masks."""
    return replace(
        policy, query_masks=frozenset(), request=_unmasked(policy.request), response=_unmasked(policy.response)
    )


def _unmasked(side: SidePolicy) -> SidePolicy:
    return replace(side, header_masks=frozenset(), body=replace(side.body, masks=frozenset()))


def masked_headers(names: tuple[Sequence[str], Sequence[str]], instance: Instance) -> list[Removed]:
    """The headers removed from request and response, and the parameter responsible for each."""
    sides = (("request", instance.policy.request), ("response", instance.policy.response))
    return [
        Removed(where=f"{side}.headers.{name}", by=_header_mask(instance, side, name))
        for (side, policy), there in zip(sides, names, strict=True)
        for name in there
        if hyphened(name) in policy.header_masks
    ]


def _header_mask(instance: Instance, side: str, name: str) -> str:
    masks = instance.settings.request_header_masks if side == "request" else instance.settings.response_header_masks
    return f"{side}_header_masks" if hyphened(name) in map(hyphened, masks) else "credential_headers"


def masked_bodies(exchange: Exchange, facts: Attributes, policy: EventPolicy, event: bytes) -> list[Removed]:
    """The parts removed by body masks; empty if a body is nested too deeply to be parsed."""
    try:
        return list(_masked_bodies(exchange, facts, policy, event))
    except ValueError:
        return []


def _masked_bodies(exchange: Exchange, facts: Attributes, policy: EventPolicy, event: bytes) -> Iterator[Removed]:
    sent = loads(event)
    sides = (
        ("request", exchange.request_body, facts.request_headers, policy.request),
        ("response", exchange.response_body, facts.response_headers, policy.response),
    )
    for side in sides:
        yield from _masked_body(*side, sent)


def _masked_body(
    name: str, payload: Payload, headers: Mapping[str, str], side: SidePolicy, sent: Mapping[str, Any]
) -> Iterator[Removed]:
    raw = payload.content()
    if not raw or not side.body.masks or name not in sent:
        return
    kind, encoding = headers.get("content-type", ""), headers.get("content-encoding", "")
    captured = render(raw, kind, encoding, replace(side.body, masks=frozenset()))
    if captured.value is None:
        return
    if "body" not in sent[name]:
        if sent.get("metadata", {}).get("body_omitted", {}).get(name) in (None, "unmaskable"):
            yield Removed(where=f"{name}.body", by=f"{name}_body_masks")
        return
    before, after = loads(orjson.dumps(captured.value)), sent[name]["body"]
    names = {mask.casefold() for mask in side.body.masks}
    for path in islice(difference(before, after, lambda key: key.casefold() in names), MOST):
        yield Removed(where=_told(".".join((name, "body", *path))), by=f"{name}_body_masks")


def masked_query(policy: EventPolicy, event: Mapping[str, Any]) -> list[Removed]:
    """The places where URL parameters were replaced, found in the event alone."""
    if not policy.query_masks:
        return []
    request, response = event.get("request") or {}, event.get("response") or {}
    texts = {"request.uri": request.get("uri")} | {
        f"{side}.headers.{name}": value
        for side, message in (("request", request), ("response", response))
        for name, value in (message.get("headers") or {}).items()
    }
    return [Removed(where=where, by="request_query_masks") for where, value in texts.items() if "*****" in str(value)]


def _told(place: str) -> str:
    """A path for display. Lone surrogates in keys are replaced, since they cannot be encoded."""
    return place[:LONGEST].encode("utf-8", "replace").decode()


def loads(text: bytes) -> Any:
    """Parse JSON; numbers that orjson refuses become text. Raises `ValueError` if it is nested too deeply."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return exact(text)


def exact(text: str | bytes) -> Any:
    """Like `loads`, but no number is rounded."""
    try:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else digits)
    except RecursionError:
        raise ValueError("nested too deep") from None


type Path = tuple[str, ...]


def difference(before: Any, after: Any, may_tell: Callable[[str], bool], path: Path = ()) -> Iterator[Path]:
    """The paths where two JSON values differ: removed members and changed texts."""
    if isinstance(before, dict) and isinstance(after, dict) and len(path) < DEEPEST:
        for key, value in before.items():
            if key in after:
                yield from difference(value, after[key], may_tell, (*path, key))
            else:
                yield (*path, key if may_tell(key) else HIDDEN_NAME)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after) and len(path) < DEEPEST:
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from difference(one, other, may_tell, (*path, str(index)))
    elif before != after:
        yield path
