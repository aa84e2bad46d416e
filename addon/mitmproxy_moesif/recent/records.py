"""One exchange and its state. Facts are recorded quickly; the rest is computed when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import orjson

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.attributes import Attributes
from mitmproxy_moesif.event.build import build_event, iso_time
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.event.size import encode
from mitmproxy_moesif.recent.api import Detail, Removed, Row, State, Step
from mitmproxy_moesif.recent.masked import loads, masked_bodies, masked_headers, masked_query, unmasked
from mitmproxy_moesif.recent.notes import SHOWN, Note, note_of, shown_line

OVERHEAD = 2500
"""Approximate bytes of a record besides its event."""

HEADER = 64
"""Approximate bytes of a header's name, and also of its value if that is kept."""

MOST_WEIGHT = 2**31
"""Maximum weight of an event in statistics."""


class Known(NamedTuple):
    """The facts about an exchange, by reference, since making this is in the path of every event.

    `event` is the event as sent; without one, the first fields are still known. `at` is when it reached this state.
    `sources` are the means by which user and company were identified; `names` the header names of both sides. `raw` is
    the exchange itself, if unmasked data is kept. `size` is the record's approximate number of bytes.
    """

    id: str
    started: float
    ended: float | None
    method: str
    authority: str
    path: str
    status: int | None
    at: float
    state: State = "built"
    cause: str = ""
    instance: Instance | None = None
    kong: Mapping[str, object] = MappingProxyType({})
    event: bytes | None = None
    sources: tuple[str | None, str | None] = (None, None)
    sizes: tuple[int | None, int | None] = (None, None)
    names: tuple[Sequence[str], Sequence[str]] = ((), ())
    bodies: Sequence[Removed] = ()
    raw: tuple[Exchange, Attributes] | None = None
    size: int = OVERHEAD


@dataclass(slots=True)
class Record:
    """The facts about an exchange, and the steps of its life."""

    known: Known
    number: int = 0
    changed: int = 0
    life: list[tuple[float, State, str]] = field(default_factory=list)
    _row: Row | None = None

    @classmethod
    def of(cls, known: Known, number: int) -> Record:
        """A record whose first steps are derived from `known`."""
        captured: tuple[float, State, str] = (known.ended or known.started, "captured", "")
        life = [captured] if known.instance is not None else []
        return cls(known, number, number, [*life, (known.at, known.state, known.cause)])

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
        """All about the exchange. Events are passed on as bytes: they may have numbers that cannot be re-encoded."""
        return Detail(
            **self.row(),
            life=[Step(at=f"{iso_time(at)}Z", step=step, detail=detail) for at, step, detail in self.life],
            removed=self._removed(),
            event=_fragment(self.known.event),
            captured=_fragment(self._captured()),
        )

    def _removed(self) -> list[Removed]:
        known = self.known
        if known.instance is None:
            return []
        removed = [*masked_headers(known.names, known.instance), *known.bodies]
        return removed + masked_query(known.instance.policy, self._event()) if known.event is not None else removed

    def _captured(self) -> bytes | None:
        if self.known.raw is None or self.known.instance is None:
            return None
        return encode(build_event(*self.known.raw, unmasked(self.known.instance.policy)))

    def _event(self) -> Mapping[str, Any]:
        """The event, or a substitute if there is none or it is nested too deeply to be parsed."""
        with suppress(ValueError):
            if self.known.event is not None:
                found: dict[str, Any] = loads(self.known.event)
                return found
        known = self.known
        return {
            "request": {"verb": known.method, "uri": f"//{known.authority}{known.path}", "headers": {}},
            "response": {"status": known.status, "headers": {}},
            "metadata": {"kong": known.kong},
        }

    def _read(self) -> Row:
        event, known = self._event(), self.known
        host, path = _split(member(event, str, "request", "uri") or "")
        return Row(
            number=self.number,
            changed=self.changed,
            id=known.id,
            time=f"{iso_time(known.started)}Z",
            method=_shown(member(event, str, "request", "verb")) or "",
            status=member(event, int, "response", "status"),
            host=_shown(host) or "",
            path=_shown(path) or "",
            route=_shown(member(event, str, "metadata", "kong", "route_name")),
            service=_shown(member(event, str, "metadata", "kong", "service_name")),
            instance=known.instance.name if known.instance is not None else None,
            user=_shown(event.get("user_id")),
            user_from=known.sources[0],
            company=_shown(event.get("company_id")),
            company_from=known.sources[1],
            ms=round((known.ended - known.started) * 1000, 1) if known.ended is not None else None,
            kong_ms=member(event, int, "metadata", "kong", "proxy_latency_ms"),
            upstream_ms=member(event, int, "metadata", "kong", "upstream_latency_ms"),
            request_bytes=known.sizes[0],
            response_bytes=known.sizes[1],
            weight=min(max(1, member(event, int, "weight") or 1), MOST_WEIGHT),
            blocked_by=_shown(member(event, str, "blocked_by")),
            error=_shown(member(event, str, "metadata", "error")),
            state="captured",
            cause=None,
        )


def member[T](event: object, kind: type[T], *names: str) -> T | None:
    """The value at this path of an untrusted event; None if it is missing or of another type."""
    for name in names:
        event = event.get(name) if isinstance(event, Mapping) else None
    return event if isinstance(event, kind) else None


def built(instance: Instance, exchange: Exchange, facts: Attributes, event: bytes, *, raw: bool) -> Known:
    policy, caller = instance.policy, facts.caller
    bodies: Sequence[Removed] = ()
    headers = HEADER * (len(facts.request_headers) + len(facts.response_headers))
    size = OVERHEAD + len(event) + headers + (exchange.size + headers if raw else 0)
    if policy.request.body.masks or policy.response.body.masks:
        bodies = masked_bodies(exchange, facts, policy, event)
        size += sum(100 + len(removed["where"]) for removed in bodies)
    method, authority, path = shown_line(instance, exchange.method, exchange.authority, exchange.target)
    return Known(
        exchange.transaction_id,
        exchange.started,
        exchange.ended,
        method,
        authority,
        path,
        exchange.status,
        time.time(),
        "built",
        "",
        instance,
        {} if instance.hides else exchange.kong,
        event,
        (caller.user_from, caller.company_from),
        (_size(exchange.request_body), _size(exchange.response_body)),
        (tuple(facts.request_headers), tuple(facts.response_headers)),
        bodies,
        (exchange, facts) if raw else None,
        size,
    )


def unbuilt(instance: Instance, exchange: Exchange, state: State, cause: str) -> Known:
    """Facts about an exchange without an event, except for anything that a mask might remove."""
    return told(note_of(instance, exchange, cause), state)._replace(
        instance=instance,
        kong={} if instance.hides else exchange.kong,
        sizes=(_size(exchange.request_body), _size(exchange.response_body)),
    )


def told(note: Note, state: State) -> Known:
    """Facts about an exchange that was not handed over to delivery."""
    return Known(*note[:7], time.time(), state, note.cause)


def _size(payload: Payload) -> int | None:
    return sum(map(len, payload.chunks)) if payload.omitted is None else payload.size


def _shown(name: object) -> str | None:
    """The start of a text. Lone surrogates, which JSON may contain, are replaced, since they cannot be encoded."""
    return None if name is None else str(name)[:SHOWN].encode("utf-8", "replace").decode()


def _split(uri: str) -> tuple[str, str]:
    """Host, and path with query."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "", uri
    return parts.netloc, parts.path + (f"?{parts.query}" if parts.query else "")


def _fragment(event: bytes | None) -> dict[str, Any] | None:
    return cast(dict[str, Any], orjson.Fragment(event)) if event is not None else None
