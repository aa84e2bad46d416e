"""Exchanges in flight, by client connection and flow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mitmproxy import http

from mitmproxy_moesif.capture.tee import Tee
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.event.exchange import Fields
from mitmproxy_moesif.event.identity import Caller


@dataclass(slots=True)
class PendingExchange:
    """An exchange in flight. `live` is false for saved flows; `flow.live` cannot be used, because killing clears it.

    `unanswered`: the connection is closed without a response. `left_out`: why it gets no event. A `passive` one is only
    counted; its flow is not changed.
    """

    flow: http.HTTPFlow
    instance: Instance
    request_headers: Fields
    header: bytes | None = None
    request_tee: Tee | None = None
    response_tee: Tee | None = None
    live: bool = True
    refused: bool = False
    unanswered: bool = False
    left_out: str | None = None
    passive: bool = False
    awaits_body: bool = False
    caller: Caller | None = None  # the caller that the rules were evaluated for, if they use it
    blocked_by: str | None = None
    rule_headers: Fields = ()
    kong: dict[str, object] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)


class InFlight:
    """The exchanges in flight, by client connection and flow. Not thread-safe: use it on the event loop's thread."""

    def __init__(self) -> None:
        self._by_client: dict[str, dict[str, PendingExchange]] = {}

    def add(self, entry: PendingExchange) -> None:
        self._by_client.setdefault(entry.flow.client_conn.id, {})[entry.flow.id] = entry

    def get(self, flow: http.HTTPFlow) -> PendingExchange | None:
        flows = self._by_client.get(flow.client_conn.id)
        return flows.get(flow.id) if flows else None

    def pop(self, flow: http.HTTPFlow) -> PendingExchange | None:
        """Remove an exchange and return it; None if it was already removed."""
        client = flow.client_conn.id
        flows = self._by_client.get(client)
        if flows is None:
            return None
        entry = flows.pop(flow.id, None)
        if not flows:
            del self._by_client[client]
        return entry

    def entries(self) -> list[PendingExchange]:
        return [entry for flows in self._by_client.values() for entry in flows.values()]

    def pop_client(self, client_id: str) -> Iterable[PendingExchange]:
        return self._by_client.pop(client_id, {}).values()

    def pop_all(self) -> Iterator[PendingExchange]:
        while self._by_client:
            yield from self._by_client.popitem()[1].values()
