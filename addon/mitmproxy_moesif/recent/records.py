"""One exchange and what became of it. Taking a note of it is quick; its row is made when somebody asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.build import build_event, iso_time
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.event.size import encode
from mitmproxy_moesif.recent.api import Detail, Removed, Row, State, Step
from mitmproxy_moesif.recent.masked import loads, masked_bodies, masked_headers, masked_query, unmasked
from mitmproxy_moesif.recent.notes import SHOWN, Note, masks_by_hook, note_of

OVERHEAD = 2500
"""About the bytes that a record takes besides its event."""

MOST_WEIGHT = 2**31
"""What an event may stand for where events are added up."""


@dataclass(slots=True)
class Record:
    """What is needed to tell of an exchange, by reference: making one is on the way of every event.

    `event` is what is sent; without one, `note` is what can be told all the same. `sources` say what identified user
    and company, `masked` are the names of the headers that were left out, of each side. `raw` is the exchange itself,
    where what masks remove is kept.
    """

    note: Note
    instance: Instance | None = None
    kong: Mapping[str, object] = field(default_factory=dict)
    event: bytes | None = None
    sources: tuple[str | None, str | None] = (None, None)
    sizes: tuple[int | None, int | None] = (None, None)
    masked: tuple[Sequence[str], Sequence[str]] = ((), ())
    bodies: list[Removed] = field(default_factory=list)
    raw: tuple[Exchange, Attributes] | None = None
    number: int = 0
    changed: int = 0
    life: list[tuple[float, State, str]] = field(default_factory=list)
    size: int = OVERHEAD
    _row: Row | None = None

    def moved(self, at: float, state: State, detail: str, changed: int) -> None:
        self.life.append((at, state, detail))
        self.changed = changed

    def row(self) -> Row:
        row = self._row
        if row is None:
            row = self._row = self._read()
        _, row["state"], detail = self.life[-1]
        row["cause"] = detail if row["state"] in ("dropped", "refused", "not_captured", "retrying") else None
        row["changed"] = self.changed
        return row

    def detail(self) -> Detail:
        """Events go out as they are: they may hold numbers that cannot be written again."""
        return Detail(
            **self.row(),
            life=[Step(at=f"{iso_time(at)}Z", step=step, detail=detail) for at, step, detail in self.life],
            removed=self._removed(),
            event=_fragment(self.event),
            captured=_fragment(self._captured()),
        )

    def _removed(self) -> list[Removed]:
        if self.instance is None:
            return []
        removed = [*masked_headers(self.masked, self.instance), *self.bodies]
        return removed + masked_query(self.instance.policy, self._event()) if self.event is not None else removed

    def _captured(self) -> bytes | None:
        if self.raw is None or self.instance is None:
            return None
        return encode(build_event(*self.raw, unmasked(self.instance.policy)))

    def _event(self) -> Mapping[str, Any]:
        """What is told of it, where there is no event or it is nested too deep to be read."""
        with suppress(ValueError):
            if self.event is not None:
                found: dict[str, Any] = loads(self.event)
                return found
        note = self.note
        return {
            "request": {"verb": note.method, "uri": f"//{note.authority}{note.path}", "headers": {}},
            "response": {"status": note.status, "headers": {}},
            "metadata": {"kong": self.kong},
        }

    def _read(self) -> Row:
        event, note = self._event(), self.note
        host, path = _split(member(event, str, "request", "uri") or "")
        return Row(
            number=self.number,
            changed=self.changed,
            id=note.id,
            time=f"{iso_time(note.started)}Z",
            method=_shown(member(event, str, "request", "verb")) or "",
            status=member(event, int, "response", "status"),
            host=_shown(host) or "",
            path=_shown(path) or "",
            route=_shown(member(event, str, "metadata", "kong", "route_name")),
            service=_shown(member(event, str, "metadata", "kong", "service_name")),
            instance=self.instance.name if self.instance is not None else None,
            user=_shown(event.get("user_id")),
            user_from=self.sources[0],
            company=_shown(event.get("company_id")),
            company_from=self.sources[1],
            ms=round((note.ended - note.started) * 1000, 1) if note.ended is not None else None,
            kong_ms=member(event, int, "metadata", "kong", "proxy_latency_ms"),
            upstream_ms=member(event, int, "metadata", "kong", "upstream_latency_ms"),
            request_bytes=self.sizes[0],
            response_bytes=self.sizes[1],
            weight=min(max(1, member(event, int, "weight") or 1), MOST_WEIGHT),
            blocked_by=_shown(member(event, str, "blocked_by")),
            error=_shown(member(event, str, "metadata", "error")),
            state="captured",
            cause=None,
        )


def member[T](event: object, kind: type[T], *names: str) -> T | None:
    """What an event has there, whoever made it; None where that is of another kind."""
    for name in names:
        event = event.get(name) if isinstance(event, Mapping) else None
    return event if isinstance(event, kind) else None


def built(instance: Instance, exchange: Exchange, facts: Attributes, event: bytes, *, raw: bool) -> Record:
    record, policy = unbuilt(instance, exchange), instance.policy
    record.event = event
    record.sources = facts.caller.user_from, facts.caller.company_from
    record.masked = (
        [name for name in facts.request_headers if name in policy.request.header_masks],
        [name for name in facts.response_headers if name in policy.response.header_masks],
    )
    record.size += len(event)
    if policy.request.body.masks or policy.response.body.masks:
        record.bodies = masked_bodies(exchange, facts, policy, event)
        record.size += sum(100 + len(removed["where"]) for removed in record.bodies)
    if raw:
        record.raw = exchange, facts
        record.size += exchange.size
    return record


def unbuilt(instance: Instance, exchange: Exchange) -> Record:
    """Of an exchange that became no event: nothing of it that a mask could have removed."""
    record = Record(note_of(instance, exchange, ""), instance, {} if masks_by_hook(instance) else exchange.kong)
    record.sizes = _size(exchange.request_body), _size(exchange.response_body)
    return record


def _size(payload: Payload) -> int | None:
    return sum(map(len, payload.chunks)) if payload.omitted is None else None


def _shown(name: object) -> str | None:
    """JSON can hold halves of surrogate pairs, which cannot be written again."""
    return None if name is None else str(name)[:SHOWN].encode("utf-8", "replace").decode()


def _split(uri: str) -> tuple[str, str]:
    """Host and path with its query."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "", uri
    return parts.netloc, parts.path + (f"?{parts.query}" if parts.query else "")


def _fragment(event: bytes | None) -> dict[str, Any] | None:
    return cast(dict[str, Any], orjson.Fragment(event)) if event is not None else None
